"""What any user of the machine can do to an audit: nothing that it counts, and nothing that ends it."""

import os
import socket
import struct
from pathlib import Path

import pytest

from ixy_vfio.audit import tree
from ixy_vfio.audit.host import Host
from ixy_vfio.audit.model import Status
from ixy_vfio.audit.report import Report
from ixy_vfio.audit.sessions import sessions_of
from ixy_vfio.audit.system import LiveSystem, parse_acl
from ixy_vfio.audit.tree import Tree
from tests.unit.audit.audit_support import NIC, edit, link, look, machine, process, result, statuses, thread, write

PACKETS = "7f0000100000-7f0000200000 rwxs 00000000 00:01 77 /memfd:ixy_vfio (deleted)"
REGISTERS = "7f0000001000-7f0000002000 rwxs 00001000 00:01 9 /memfd:ixy-sim-bar0-0 (deleted)"
LIBRARY = "7f0000000000-7f0000001000 r-xp 00000000 08:01 5 /tmp/vfio"
DEVICE_FD = "anon_inode:[vfio-device]"


def bad(report: Report) -> set[str]:
    return statuses(report, Status.FAIL) | statuses(report, Status.WARN)


@pytest.mark.parametrize("maps", [PACKETS, REGISTERS, f"{PACKETS}\n{REGISTERS}"], ids=["packets", "registers", "both"])
def test_memory_of_our_names_makes_no_session_of_ours(maps: str) -> None:
    tree = machine("sound")
    for pid, parent in ((1700, 1), (1701, 1700)):
        process(tree, pid, uid=65534, parent=parent, argv="ixy-vfio forward 8259:00:00.0 8259:00:01.0")
        write(tree, f"/proc/{pid}/maps", maps)
    report = look(tree)
    assert (bad(report), report.exit_status("warn")) == (set(), 0)
    assert len(report.scene.sessions) == 1
    named = look(tree, "1700")  # whoever asks for it is told
    assert result(named, "session.exec").findings[0].text == (
        "writable and executable: python3 (pid 1700, uid 65534), python3 (pid 1701, uid 65534)"
    )


def test_memory_of_our_name_beside_a_device_is_another_programs() -> None:
    """It holds a device that is leased to somebody else, and looks like a session."""
    tree = machine("sound")
    process(tree, 1300, uid=1001, argv="ixy-vfio forward 0000:03:00.0")
    link(tree, "/proc/1300/fd/9", DEVICE_FD)
    write(tree, "/proc/1300/maps", PACKETS)
    report = look(tree)
    assert [one.kind for one in report.scene.sessions] == ["ixy_vfio", "another program"]
    found = result(report, "device.holders", "0000:03:00.0").findings[0]
    assert (found.status, found.text) == (
        Status.FAIL, "held by python3 (pid 1200, uid 1000) and by python3 (pid 1300, uid 1001)",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("fd", "what", "device", "more"),
    [
        ("9", "/dev/vfio/26", "none", ""),  # a file of that name, in a mount namespace of its own
        ("9", "/dev/vfio/devices/vfio0", "c 1:3", ""),  # another device under that name
        ("9", "/dev/vfio/26", "", "flags:\t010000000\n"),  # O_PATH: the name only
        ("9", "/dev/mem", "none", ""),
        ("9", "/dev/mem", "c 1:1", "flags:\t012000000\n"),
        ("9", f"{NIC}/resource0", "none", "flags:\t010000000\n"),
        ("9", f"{NIC}/resource0", "none", "flags:\t02\nmnt_id:\t77\n"),  # in a tmpfs
    ],
)
def test_names_that_lead_nowhere(fd: str, what: str, device: str, more: str) -> None:
    tree = machine("sound")
    process(tree, 1300, uid=65534)
    link(tree, f"/proc/1300/fd/{fd}", what)
    if device:
        tree.update(f"/proc/1300/fd/{fd}", device=device)
    if more:
        write(tree, f"/proc/1300/fdinfo/{fd}", f"pos:\t0\n{more}")
    write(tree, "/proc/1300/mountinfo", "25 1 0:21 / /sys rw - sysfs sysfs rw\n77 1 0:55 / /sys rw - tmpfs tmpfs rw")
    assert bad(look(tree)) == set()


def test_registers_in_a_file_system_that_is_not_sysfs() -> None:
    tree = machine("sound")
    process(tree, 1300, uid=65534)
    write(tree, "/proc/1300/mountinfo", "25 1 0:21 / /sys rw - sysfs sysfs rw\n77 1 0:55 / /sys rw - tmpfs tmpfs rw")
    row = "7f0000000000-7f0000080000 rw-s 00000000 {} 1821 " + f"{NIC}/resource0"
    write(tree, "/proc/1300/maps", row.format("00:37"))
    assert bad(look(tree)) == set()
    write(tree, "/proc/1300/maps", row.format("00:15"))
    assert bad(look(tree)) == {"nodes.uio"}


@pytest.mark.parametrize("end", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028"])
def test_other_ends_of_lines_in_names(end: str) -> None:
    """Python knows more ends of lines than the kernel escapes: a name could make up lines, or end the audit."""
    tree = machine("sound")
    lines = f"x{end}Uid:\t0\t0\t0\t0{end}CapEff:\tff{end}{PACKETS}"
    process(tree, 1300, uid=65534)
    status = (tree.data("/proc/1300/status") or b"").decode()
    write(tree, "/proc/1300/status", status.replace("python3", lines))
    write(tree, "/proc/1300/maps", f"{LIBRARY}{lines}")
    link(tree, "/proc/1300/fd/3", f"/tmp/{lines}")
    report = look(tree)
    assert bad(report) == set()
    assert len(report.scene.sessions) == 1


def test_a_recording_keeps_names_of_any_kind() -> None:
    before = machine("sound")
    for number, name in enumerate(
        ("/tmp/a b", "/tmp/new\nline", "/tmp/\x1b[2J", "/tmp/\udcff", "/tmp/back\\slash", "")
    ):
        link(before, f"/proc/1100/fd/{number + 5}", name)
    before.update("/proc/1100/fd/5", device="none")
    write(before, "/dev/odd name\n", "x\n")
    after = tree.load(tree.dump(before))
    assert after == before
    assert tree.dump(before).isascii()


def test_a_program_of_root_that_a_user_started_is_no_helper() -> None:
    """As sudo at its question: root's by the effective user id, with the words of the user."""
    tree = machine("sound")
    process(tree, 1300, argv="sudo /home/eve/ixy_vfio_helper")
    edit(tree, "/proc/1300/status", "Uid:\t1000\t1000\t1000\t1000", "Uid:\t1000\t0\t0\t0")
    link(tree, "/proc/1300/fd/3", "socket:[20011]")
    host = Host(tree)
    assert [one.pid for one in sessions_of(host).helpers] == [900, 901]
    assert bad(look(tree)) == set()


# -- where a part of the machine is not seen


def hidden_processes(tree: Tree) -> None:
    """hidepid=1: directories are there, and cannot be looked into."""
    tree.uid = 1000
    for pid in (900, 901, 1201, 1202):
        for name in [name for name in tree.entries if name.startswith(f"/proc/{pid}/")]:
            del tree.entries[name]
        tree.update(f"/proc/{pid}", denied=True)


def invisible_processes(tree: Tree) -> None:
    """hidepid=2."""
    tree.uid = 1000
    for pid in (900, 901, 1201, 1202):
        tree.remove(f"/proc/{pid}")


@pytest.mark.parametrize("hide", [hidden_processes, invisible_processes])
def test_hidden_processes_are_no_reason_to_pass(hide: object) -> None:
    assert callable(hide)
    tree = machine("sound")
    hide(tree)
    report = look(tree)
    assert statuses(report, Status.FAIL) == set()
    assert {"device.holders", "nodes.memory", "nodes.uio", "helper.capabilities"} <= statuses(report, Status.SKIP)


@pytest.mark.parametrize("namespace", ["pid", "user"])
def test_root_in_a_container_does_not_see_everything(namespace: str) -> None:
    tree = machine("sound")
    link(tree, f"/proc/self/ns/{namespace}", f"{namespace}:[4026532000]")
    tree.remove("/sys/module/vfio_iommu_type1")
    report = look(tree)
    assert {
        "device.holders", "nodes.vfio", "nodes.memory", "nodes.uio", "vfio.unsafe_interrupts",
    } <= statuses(report, Status.SKIP)  # fmt: skip
    assert statuses(report, Status.FAIL) == set()
    said = result(report, "nodes.vfio").findings[0].text
    assert said == f"only a part of the machine is seen from here: this is a {namespace} namespace of its own"


def test_dev_of_a_container() -> None:
    tree = machine("sound")
    edit(tree, "/proc/self/mountinfo", "- devtmpfs udev", "- tmpfs tmpfs")
    report = look(tree)
    assert {"nodes.vfio", "nodes.memory"} <= statuses(report, Status.SKIP)


def test_one_process_that_is_hidden_even_from_root() -> None:
    tree = machine("sound")
    tree.remove("/proc/1100/fd")
    tree.update("/proc/1100/fd", denied=True)
    report = look(tree)
    assert statuses(report, Status.SKIP) == {"device.holders", "nodes.memory", "nodes.uio"}
    assert result(report, "device.holders", "0000:03:00.0").findings[0].text == (
        "who has a device open is hidden even from this root: bash (pid 1100, uid 1000) and 0 more"
    )


def test_without_sys() -> None:
    tree = machine("sound")
    tree.remove("/sys")
    report = look(tree)
    assert statuses(report, Status.FAIL) == set()
    assert statuses(report, Status.PASS) <= {
        "kernel.version", "kernel.config", "kernel.layers", "nodes.vfio", "nodes.memory",
    } | {name for name in statuses(report, Status.PASS) if name.startswith("helper.")}  # fmt: skip
    assert result(report, "iommu.present").findings[0].text == "/sys is not mounted here"
    assert result(report, "vfio.noiommu").status is Status.SKIP


def test_without_proc() -> None:
    tree = machine("sound")
    tree.remove("/proc")
    report = look(tree)
    assert statuses(report, Status.PASS) <= {"kernel.layers"}
    assert {one.findings[0].text for one in report.results if one.check.startswith(("iommu.", "nodes.", "vfio."))} == {
        "/proc is not mounted here"
    }


def test_a_configuration_that_is_cut_off() -> None:
    tree = machine("sound")
    tree.update("/proc/config.gz", data=b"\x1f\x8b\x08")
    assert result(look(tree), "kernel.config").status is Status.PASS  # the other place tells


# -- a live system


def test_what_an_acl_gives() -> None:
    def acl(*entries: tuple[int, int, int]) -> bytes:
        return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *one) for one in entries)

    none = 0xFFFF_FFFF
    owner, group, other = (1, 6, none), (4, 4, none), (32, 0, none)
    assert parse_acl(acl(owner, group, other)) == ""
    assert parse_acl(acl(owner, (2, 6, 1000), group, (8, 7, 15), (16, 6, none), other)) == "u1000=6,g=4,g15=6"
    assert parse_acl(acl(owner, (2, 6, 1000), group, (16, 4, none), other)) == "u1000=4,g=4"
    assert parse_acl(b"") == parse_acl(b"\2\0\0\0\1") == ""


def test_which_device_is_open(tmp_path: Path) -> None:
    system = LiveSystem()
    (tmp_path / "null").symlink_to("/dev/null")
    fd = os.open(tmp_path / "null", os.O_RDONLY)
    ours, theirs = socket.socketpair()
    try:
        assert system.device(f"/proc/self/fd/{fd}") == system.device("/dev/null") == "c 1:3"
        assert system.device(f"/proc/self/fd/{ours.fileno()}") is None
        assert system.device(str(tmp_path)) is None
        assert system.device("/nowhere") is None
    finally:
        os.close(fd)
        ours.close()
        theirs.close()


def test_threads_are_named_with_their_process() -> None:
    tree = machine("sound")
    thread(tree, 1200, 1203, Name="worker", Seccomp="0")
    found = result(look(tree), "session.sandbox").findings[0]
    assert found.text == "without a full sandbox: worker (thread 1203 of pid 1200, uid 1000)"
    assert [one.path for one in found.evidence] == ["/proc/1200/task/1203/status"] * 2
