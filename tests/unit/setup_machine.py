"""A machine that setup can work on: files under a root of the test's own, commands that do there what the real do."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from ixy_vfio_setup import __main__ as command
from ixy_vfio_setup.bound import Bound, Entry
from ixy_vfio_setup.look import Found
from ixy_vfio_setup.system import SetupError, System

NIC, SECOND = "0000:03:00.0", "0000:03:00.1"
WHAT, SECOND_WHAT = (f"8086:10fb 8086:7a11 00-1b-21-ff-ff-5a-3c-{n}0" for n in "01")  # which device each is
TOP = Path(__file__).parents[2]
MEMORY = "MemTotal: 2097152 kB\nMemFree: 1 kB\nMemAvailable: 1572864 kB"
PROGRAMS = (
    "ixy_vfio_helper/__init__.py", "ixy_vfio_helper/__main__.py", "ixy_vfio_locks/seccomp.py",
    "ixy_vfio_setup/commands.py",
)  # fmt: skip
HUGE = "sys/kernel/mm/hugepages/hugepages-2048kB"


class Killed(BaseException):
    """kill -9: nothing runs after it."""


class Machine(System):
    """`fault` says at which change (from 0) what is raised; `changes` counts."""

    def __init__(self, folder: Path, systemd: bool = True) -> None:
        super().__init__(folder / "root", os.geteuid())
        self.tree = folder / "tree"
        self.fault: tuple[int, BaseException] | None = None
        self.changes = 0
        self.commands: list[str] = []
        self.serving = 0
        self.looked = 0
        self.give = 1000  # hugepages at most
        self.found = Found()
        self.answer = ""  # of an unbind
        self._tree()
        for name in ("usr/local/lib", "usr/local/sbin", "etc/systemd/system", "var/lib", "run",
                     "proc/sys/kernel/random", "sys/bus/pci/drivers/ixgbe", HUGE, "sys/bus/pci/devices"):  # fmt: skip
            self.at(name).mkdir(parents=True)
        if systemd:
            self.at("run/systemd/system").mkdir(parents=True)
        for name, text in {"proc/sys/kernel/random/boot_id": "boot-1", "proc/interrupts": " 24: IR-PCI-MSIX eth0",
                           "proc/cmdline": "ro quiet", "proc/meminfo": MEMORY, f"{HUGE}/nr_hugepages": "10",
                           f"{HUGE}/free_hugepages": "10"}.items():  # fmt: skip
            self.at(name).write_text(text + "\n")
        for address, group in ((NIC, "7"), (SECOND, "8")):
            self._device(address, group)

    def _tree(self) -> None:
        for name in PROGRAMS:
            path = self.tree / "helper" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"# {name}\n")
        shutil.copytree(TOP / "scripts/systemd", self.tree / "scripts/systemd")

    def _device(self, address: str, group: str) -> None:
        path = self.at(f"sys/bus/pci/devices/{address}")
        path.mkdir()
        for name, text in {"class": "0x020000", "vendor": "0x8086", "device": "0x10fb", "subsystem_vendor": "0x8086",
                           "subsystem_device": "0x7a11", "sriov_numvfs": "0"}.items():  # fmt: skip
            (path / name).write_text(text + "\n")
        serial = bytes.fromhex(f"03000100 {address[-1]}03c5affff211b00")  # a capability, and no other
        (path / "config").write_bytes(bytes(0x100) + serial)
        directory = self.at(f"sys/kernel/iommu_groups/{group}")
        (directory / "devices").mkdir(parents=True)
        (directory / "devices" / address).symlink_to(path)
        (path / "iommu_group").symlink_to(directory)
        (path / "driver").symlink_to(self.at("sys/bus/pci/drivers/ixgbe"))
        (path / "net/eth0").mkdir(parents=True)
        for name, text in {"mtu": "1500", "flags": "0x1002", "dev_port": "0"}.items():
            (path / "net/eth0" / name).write_text(text + "\n")

    def setup(self, *words: str) -> int:
        """Run the command."""
        self.changes = 0
        return command.run(words, self, self.tree, self.look)

    def look(self, tree: Path, address: str) -> Found:
        """What `ixy-vfio in-use` would say."""
        self.looked += 1
        return self.found

    def state(self) -> dict[str, str]:
        """Everything there is, by name: modes and contents."""
        found = {}
        for path in sorted(self.root.rglob("*")):
            what = (
                os.readlink(path)
                if path.is_symlink()
                else path.read_bytes().decode("latin-1")
                if path.is_file()
                else ""
            )
            found[str(path.relative_to(self.root))] = f"{path.lstat().st_mode:o} {what}"
        return found | {"serving": str(self.serving)}

    def _change(self) -> None:
        self.changes += 1
        if self.fault and self.fault[0] == self.changes - 1:
            fault, self.fault = self.fault[1], None
            raise fault

    def make_directory(self, name: str) -> None:
        self._change()
        super().make_directory(name)

    def remove_directory(self, name: str) -> bool:
        self._change()
        return super().remove_directory(name)

    def write_file(self, name: str, text: str, mode: int) -> None:
        self._change()
        super().write_file(name, text, mode)

    def remove_file(self, name: str) -> None:
        self._change()
        super().remove_file(name)

    def remove_tree(self, name: str) -> None:
        self._change()
        super().remove_tree(name)

    def set_attribute(self, name: str, text: str) -> None:
        self._change()
        text = str(min(int(text), self.give))
        super().set_attribute(name, text)
        self.at(f"{HUGE}/free_hugepages").write_text(text + "\n")

    def unit_active(self, unit: str) -> bool:
        return self.serving == 1

    def listener(self, name: str) -> int:
        assert not self.at("run/systemd/system").exists()  # it would start the service
        return self.serving

    def end(self, pid: int) -> None:
        self._change()
        self.serving = 0

    def start(self, argv: Sequence[str], log: str, ready: str) -> None:
        self._change()
        self._helper(argv[1:])
        self.serving = 4711
        self.at("proc/4711").mkdir(exist_ok=True)
        self.at("proc/4711/cmdline").write_text("python3\0/usr/local/lib/ixy_vfio/ixy_vfio_helper\0serve\0")

    def run(self, argv: Sequence[str]) -> str:
        self._change()
        self.commands.append(" ".join(argv))
        match list(argv):
            case ["modprobe", "vfio-pci"]:
                self.at("sys/bus/pci/drivers/vfio-pci").mkdir()
            case ["modprobe", "--remove", "vfio-pci"]:
                self.at("sys/bus/pci/drivers/vfio-pci").rmdir()
            case ["modprobe", "--dry-run", "vfio-pci"] | ["systemctl", "daemon-reload"]:
                pass
            case ["systemctl", "enable", "--now", _]:
                self.serving = 1
            case ["systemctl", "disable", "--now", *_]:
                self.serving = 0
            case ["/usr/local/sbin/ixy-vfio-helper", *words]:
                assert all(self.at(f"usr/local/lib/ixy_vfio/{name}").exists() for name in PROGRAMS)
                self._helper(words)
                return self.answer * (words[0] == "unbind")
            case _:
                raise AssertionError(argv)
        return ""

    def _helper(self, words: Sequence[str]) -> None:
        """The helper: its directories, and the driver of a device."""
        for name in ("run/ixy_vfio", "run/ixy_vfio/bound"):
            self.at(name).mkdir(exist_ok=True)
        if words[0] in ("bind", "unbind"):
            entry = self.at(f"run/ixy_vfio/bound/{words[-1]}.json")
            if entry.exists() is (words[0] == "bind"):
                raise SetupError(f"{words[-1]}: wrong state")
            path = self.at(f"sys/bus/pci/devices/{words[-1]}")
            (path / "driver").unlink()
            (path / "driver").symlink_to(
                self.at(f"sys/bus/pci/drivers/{'vfio-pci' if words[0] == 'bind' else 'ixgbe'}")
            )
            entries = Bound(entry.parent)
            if words[0] == "bind":
                entries.write(Entry(words[-1], "ixgbe", "", [], by="setup" if "--by setup" in " ".join(words) else ""))
            else:
                entries.remove(words[-1])
