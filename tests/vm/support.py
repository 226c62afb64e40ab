"""What VM tests share."""

import sys
from pathlib import Path

import pytest

from tests.vm.harness import Config, Guest

_TREE = Path(__file__).stat()
OWNER = _TREE.st_uid or 1000  # an ordinary user; where the tree is not root's, one who can run its Python
# root trusts the tree of the user who called sudo
SETUP = ["env", f"SUDO_UID={_TREE.st_uid}", f"SUDO_GID={_TREE.st_gid}", "scripts/setup"]
NICS = ("igb", "e1000e", "virtio-net-pci", "edu")
STOCK = Config(kernel="stock", nics=NICS)
IOMMUFD = Config(kernel="iommufd", nics=NICS)


def in_guest(*configs: Config) -> pytest.MarkDecorator:
    """Run the test in a guest of each configuration, by its `guest` fixture."""
    names = ["-".join([config.kernel, *([f"{config.ports}ports"] if config.ports else [])]) for config in configs]
    return pytest.mark.parametrize("guest", configs, indirect=True, ids=names, scope="session")


def inside(guest: Guest, script: str, *arguments: str, timeout: float = 240.0) -> str:
    """Run a module of the folder `inside` in the guest; returns its standard output."""
    return guest.run([sys.executable, "-m", f"tests.vm.inside.{script}", *arguments], timeout=timeout).stdout


def load(guest: Guest, *modules: str) -> None:
    """modprobe; nothing to do where everything is built in."""
    if guest.run(["test", "-d", f"/lib/modules/{guest.release}"], check=False).status == 0:
        for module in modules:
            guest.run(["modprobe", module], timeout=300)  # a probe is 7,000 register accesses, each a message


def open_python(guest: Guest) -> None:
    """Let all users run the tests' Python, also if it is in somebody's home."""
    for folder in list(Path(sys.executable).resolve().parents)[:-1]:
        guest.run(["chmod", "a+rx", str(folder)])
