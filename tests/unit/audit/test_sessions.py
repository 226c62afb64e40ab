"""Who uses a device, and what the audit can tell of it: as root, as an ordinary user, on other kernels."""

import pytest

from ixy_vfio.audit.host import Host
from ixy_vfio.audit.model import Status
from ixy_vfio.audit.processes import parse_mapping
from ixy_vfio.audit.sessions import LEASES, Kind, Level, claims, level, sessions_of
from ixy_vfio.audit.tree import Tree
from ixy_vfio.core.errors import UsageError
from ixy_vfio.hw import igb, ixgbe
from ixy_vfio.hw.devices import QUEUE_PAGES
from tests.unit.audit.audit_support import CONTROL, WORKER, link, look, machine, node, process, result, write

DEVICES = ("0000:03:00.0", "0000:03:00.1")
BAR = "7f0000001000-7f0000002000 rw-s 00001000 00:0e 1042 anon_inode:[vfio-device]"
MEMORY = "7f0000100000-7f0000200000 rw-s 00000000 00:01 77 /memfd:ixy_vfio (deleted)"


def as_user(tree: Tree) -> Tree:
    """The sound machine as its ordinary user sees it: root's and undumpable processes are hidden, so are tables."""
    tree.uid = 1000
    for pid in (900, 901, 1201, 1202):
        for name in ("fd", "maps", "smaps", "map_files"):
            tree.remove(f"/proc/{pid}/{name}")
            tree.update(f"/proc/{pid}/{name}", denied=True)
    tree.remove("/sys/kernel/debug")
    tree.update("/sys/kernel/debug", denied=True)
    return tree


def test_the_sound_session() -> None:
    host = Host(machine("sound"))
    (session,) = sessions_of(host).sessions
    assert (session.kind, session.devices, session.name) == (Kind.OURS, DEVICES, "session 0000:03:00.0,0000:03:00.1")
    assert [one.pid for one in session.holders] == [CONTROL]
    assert [one.pid for one in session.workers] == [1201, 1202]
    assert session.helper is not None
    assert session.helper.pid == 901
    assert [one.pid for one in sessions_of(host).helpers] == [900, 901]
    assert level(host, session) is Level.L2


def test_on_a_virtual_function_it_is_level_3() -> None:
    tree = machine("sound")
    for address in DEVICES:
        link(tree, f"/sys/devices/pci0000:00/0000:00:02.0/{address}/physfn", "../0000:03:00.0")
    host = Host(tree)
    assert level(host, sessions_of(host).sessions[0]) is Level.L3


def test_an_ordinary_user_sees_the_session_but_not_inside_the_workers() -> None:
    tree = as_user(machine("sound"))
    report = look(tree)
    session = report.scene.sessions[0]
    assert [one.pid for one in session.processes] == [901, 1200, 1201, 1202]  # /proc shows whose child each is
    assert session.level == ""
    skipped = {one.check for one in report.results if one.status is Status.SKIP}
    assert {"session.fds", "session.bar", "session.level", "session.mseal", "device.holders"} <= skipped
    assert result(report, "session.fds").findings[0].text == "/proc/1201/fd may not be read by you; run as root"
    assert result(report, "session.privileges").status is Status.PASS
    assert result(report, "session.sandbox").status is Status.PASS
    assert not [one for one in report.results if one.status >= Status.WARN]


def test_linux_6_18_says_which_device_an_fd_is_of() -> None:
    tree = machine("sound")
    tree.remove("/run/ixy_vfio/leases")
    path = "/sys/devices/pci0000:00/0000:00:02.0/0000:03:00.1"
    write(tree, f"/proc/{CONTROL}/fdinfo/5", f"pos:\t0\nvfio-device-syspath: {path}\n")
    (session,) = sessions_of(Host(tree)).sessions
    assert session.devices == ("0000:03:00.1",)


def test_device_nodes_of_iommufd() -> None:
    tree = machine("sound")
    tree.remove("/run/ixy_vfio/leases")
    link(tree, "/sys/class/vfio-dev/vfio0", "../../devices/pci0000:00/0000:00:02.0/0000:03:00.0/vfio-dev/vfio0")
    write(tree, "/sys/devices/pci0000:00/0000:00:02.0/0000:03:00.0/vfio-dev/vfio0/dev", "511:0")
    link(tree, f"/proc/{CONTROL}/fd/5", "/dev/vfio/devices/vfio0")
    (session,) = sessions_of(Host(tree)).sessions
    assert session.devices == ("0000:03:00.0",)


def test_two_nodes_on_one_iommufd_are_one_domain() -> None:
    tree = machine("sound")
    link(tree, "/proc/901/fd/20", "/dev/iommu")
    for number in (0, 1):
        link(tree, f"/proc/901/fd/{21 + number}", f"/dev/vfio/devices/vfio{number}")
    assert result(look(tree), "session.container").status is Status.WARN
    link(tree, "/proc/901/fd/23", "/dev/iommu")
    assert result(look(tree), "session.container").status is Status.PASS


def test_who_was_passed_two_nodes_has_no_domain_to_share() -> None:
    tree = machine("sound")
    for number in (0, 1):
        link(tree, f"/proc/{CONTROL}/fd/{21 + number}", f"/dev/vfio/devices/vfio{number}")
    assert result(look(tree), "session.container").status is Status.PASS


def test_containers_that_nobody_shows_are_not_called_apart() -> None:
    tree = machine("sound")
    tree.remove("/proc/901/fd")
    assert result(look(tree), "session.container").status is Status.SKIP


def test_a_library_below_a_folder_named_vfio_is_no_packet_memory() -> None:
    """Who installs ixy_vfio below a folder of that name maps files whose paths have it in them."""
    tree = machine("sound")
    smaps = f"/proc/{WORKER}/smaps"
    library = "7f51b0000000-7f51b0100000 r-xp 00000000 08:01 77 /ixy_vfio/lib/numpy.so\nVmFlags: rd ex mr mw me\n"
    write(tree, smaps, library + (Host(tree).read(smaps).value or ""))
    assert result(look(tree), "session.mseal").status is Status.PASS
    write(tree, smaps, library.replace("/ixy_vfio/lib/numpy.so", "/memfd:ixy_vfio (deleted)"))
    assert result(look(tree), "session.mseal").status is Status.WARN


def test_a_script_of_ours_is_level_1() -> None:
    tree = machine("sound")
    process(tree, 1600, name="script")
    write(tree, "/proc/1600/maps", f"{BAR}\n{MEMORY}")
    link(tree, "/proc/1600/fd/4", "anon_inode:[vfio-device]")
    report = look(tree, "1600")
    assert [(one.kind, one.level) for one in report.scene.sessions] == [("ixy_vfio", "L1")]
    assert result(report, "session.level").status is Status.WARN


@pytest.mark.parametrize(("uid", "mode"), [(1000, 0o755), (0, 0o775), (0, 0o757)])
def test_leases_that_others_can_have_written_are_none(uid: int, mode: int) -> None:
    tree = machine("sound")
    assert set(claims(Host(tree))) == set(DEVICES)
    node(tree, LEASES, mode, uid, kind="d")
    assert claims(Host(tree)) == {}


def test_the_queue_pages_are_those_of_the_devices_driver() -> None:
    """A page of queues of an 82599 has interrupts of an 82576; and the other way round they are not all queues."""
    tree = machine("sound")
    for address in DEVICES:
        write(tree, f"/sys/devices/pci0000:00/0000:00:02.0/{address}/device", "0x10c9")
    found = result(look(tree), "session.bar").findings[0]
    assert found.status is Status.FAIL
    assert "has BAR0 0x1000-0x1fff" in found.text
    for worker in (1201, 1202):
        maps = (tree.data(f"/proc/{worker}/maps") or b"").decode().replace("rw-s 00001000", "rw-s 0000c000")
        for begin in ("7f51c0006000-7f51c000", "7f51c0106000-7f51c010"):
            maps = maps.replace(f"{begin}8000 rw-s 00006000", f"{begin}7000 rw-s 0000e000")
        write(tree, f"/proc/{worker}/maps", maps)
    assert result(look(tree), "session.bar").status is Status.PASS
    write(tree, f"/sys/devices/pci0000:00/0000:00:02.0/{DEVICES[0]}/device", "0x10fb")  # one of each now
    found = result(look(tree), "session.bar").findings[0]
    assert (found.status, found.text.endswith("whose it is cannot be seen")) == (Status.SKIP, True)
    assert "has BAR0 0xc000-0xcfff" in found.text


def test_the_table_has_the_pages_that_the_drivers_map() -> None:
    for driver, registers in {"ixgbe": ixgbe, "igb": igb}.items():
        for first, size in (registers.RX_QUEUE_PAGES, registers.TX_QUEUE_PAGES):
            assert (first, first + size) in QUEUE_PAGES[driver]


def test_a_simulated_session_says_that_no_iommu_is_involved() -> None:
    tree = machine("cloud-vm")
    process(tree, 50, argv="python3 -m ixy_vfio.cli sim --dir /tmp/x --ports 2")
    process(tree, 51, parent=50, argv="python3 -m ixy_vfio.sim.lease --dir /tmp/x")
    process(tree, 60, argv="python3 -m ixy_vfio.cli forward 8259:00:00.0 8259:00:01.0")
    process(tree, 61, parent=60, argv="python3 -m ixy_vfio.cli forward 8259:00:00.0 8259:00:01.0")
    pages = "7f0000001000-7f0000002000 rw-s 00001000 00:01 9 /memfd:ixy-sim-bar0-0 (deleted)"
    for pid in (50, 60, 61):
        write(tree, f"/proc/{pid}/maps", f"{MEMORY}\n{pages}")
    link(tree, "/proc/61/fd/3", "socket:[1]")
    report = look(tree, "8259:00:00.0")
    (session,) = report.scene.sessions
    assert session.kind == "simulated: no IOMMU involved"
    assert [(one.role, one.pid) for one in session.processes] == [("control", 60), ("worker", 61)]
    assert result(report, "session.iommu").findings[0].text == "a simulated device: no IOMMU is involved"
    assert result(report, "session.bar").status is Status.PASS
    assert report.scene.devices == []


def test_two_sessions_have_two_names() -> None:
    tree = machine("cloud-vm")
    for pid, device in ((60, "00:01"), (70, "00:0f")):  # the same inode, but of another file system
        process(tree, pid, argv="python3 -m ixy_vfio.cli forward 8259:00:00.0 8259:00:01.0")
        write(tree, f"/proc/{pid}/maps", MEMORY.replace("00:01", device))
    names = [session.name for session in sessions_of(Host(tree)).sessions]
    assert names == ["session 8259:00:00.0,8259:00:01.0", "session 8259:00:00.0,8259:00:01.0 pid 70"]


def test_two_programs_with_one_device() -> None:
    tree = machine("hpe-rmrr")
    process(tree, 90, uid=0, name="spdk")
    link(tree, "/proc/90/fd/3", "/dev/vfio/42")
    report = look(tree, "05:00.0")
    found = result(report, "device.holders").findings[0]
    assert (found.status, found.text) == (
        Status.FAIL,
        "held by spdk (pid 90, uid 0) and by dpdk-testpmd (pid 4711, uid 0)",
    )


def test_dma_tables_of_a_kernel_without_debugfs_by_trace() -> None:
    tree = machine("sound")
    tree.remove("/sys/kernel/debug/iommu/intel/0000:03:00.0")
    tree.remove("/sys/kernel/debug/iommu/intel/0000:03:00.1")
    report = look(tree)
    assert result(report, "session.dma").status is Status.SKIP
    write(tree, "/sys/kernel/tracing/events/iommu/map/enable", "1")
    mapped = ((0x1000000000, 0x200000), (0x1000400000, 0x2000), (0x1000600000, 0x2000))
    events = [event("map", iova, size) for iova, size in mapped]
    gone = [event("map", 0x1000900000, 0x2000), event("unmap", 0x1000900000, 0x2000)]
    other = event("map", 0x90000000, 0x1000, pid=4)
    write(tree, "/sys/kernel/tracing/trace", "\n".join(["# tracer: nop", *events, other, *gone]))
    assert result(look(tree), "session.dma").status is Status.PASS
    write(tree, "/sys/kernel/tracing/trace", "\n".join([*events, gone[0]]))
    assert result(look(tree), "session.dma").status is Status.FAIL


def event(what: str, iova: int, size: int, pid: int = 901) -> str:
    place = f"iova=0x{iova:016x} - 0x{iova + size:016x}"
    more = f"paddr=0x00 size={size}" if what == "map" else f"size={size} unmapped_size={size}"
    return f" python3-{pid}     [001] .....   201.5: {what}: IOMMU: {place} {more}"


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("0000:77:00.0", "no such PCI device"),
        ("eth0", "not a PCI address"),
        ("8259:00:09.0", "no session that you may see"),
        ("/dev/vfio/99", "no such group"),
        (str(WORKER + 90), "uses no device"),
    ],
)
def test_a_target_that_is_not_there(target: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        look(machine("sound"), target)


def test_a_mapping_of_a_bar() -> None:
    area = parse_mapping("7f00-8f00 rw-s 30000006000 00:0e 1042 anon_inode:[vfio-device]")
    assert (area.region, area.bar_range, area.is_bar, area.is_packet_memory) == (3, (0x6000, 0x7000), True, False)
    assert not parse_mapping("7f00-8f00 r-xp 00000000 00:00 0").is_bar
    with pytest.raises(ValueError, match="not a line"):
        parse_mapping("nonsense")
