"""Finds a QEMU that knows vfio-user-pci, and says whether KVM really works here."""

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.vm.harness.debian import BACKPORTS, Debian, cache_directory, cache_lock
from tests.vm.harness.errors import Missing

PROGRAM = "qemu-system-x86_64"
NEEDED = (10, 1)  # the first with vfio-user-pci
KVM_DEADLINE = 5.0  # a working KVM boots the kernel in less than one


@dataclass(frozen=True, slots=True)
class Qemu:
    """How to run it: the first words of every command line, and its version."""

    command: tuple[str, ...]
    version: tuple[int, int]


def _version(command: tuple[str, ...]) -> tuple[int, int]:
    try:
        done = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=60, check=False)
    except OSError:
        return (0, 0)
    match = re.search(r"version (\d+)\.(\d+)", done.stdout)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _from_root(root: Path) -> tuple[str, ...]:
    """QEMU of an unpacked Debian root, by that root's own dynamic loader: no chroot, no privilege."""
    usr = root / "usr"
    return (
        str(usr / "lib64/ld-linux-x86-64.so.2"),
        "--library-path",
        f"{usr}/lib/x86_64-linux-gnu",
        f"{usr}/bin/{PROGRAM}",
        "-L",
        f"{usr}/share/qemu",
        "-L",
        f"{usr}/share/seabios",
    )


def find() -> Qemu:
    """QEMU >= NEEDED: of PATH, of the cache, or fetched into the cache. Raises Missing."""
    path = shutil.which(PROGRAM)
    candidates: list[tuple[str, ...]] = [(path,)] if path else []
    with cache_lock():
        candidates += [_from_root(root) for root in sorted(cache_directory().glob("qemu-*"), reverse=True)]
        for command in candidates:
            version = _version(command)
            if version >= NEEDED:
                return Qemu(command, version)
        needed = ".".join(map(str, NEEDED))
        print(f"fetching QEMU from Debian's {BACKPORTS} into {cache_directory()} ...", file=sys.stderr)
        try:
            debian = Debian()
            root = cache_directory() / f"qemu-{debian.version('qemu-system-x86', BACKPORTS)}"
            debian.unpack(["qemu-system-x86", "seabios"], root, BACKPORTS, dependencies=True)
        except Missing as missing:
            raise Missing(f"install QEMU >= {needed} ({PROGRAM} in PATH); fetching one failed: {missing}") from None
        command = _from_root(root)
        version = _version(command)
    if version < NEEDED:
        raise Missing(f"install QEMU >= {needed} ({PROGRAM} in PATH); the one in {root} does not run")
    return Qemu(command, version)


def accelerator(qemu: Qemu, image: Path) -> str:
    """`kvm` if it boots `image` to its end in KVM_DEADLINE, else `tcg`. Remembered until the host boots again.

    That /dev/kvm opens says little: on some nested hosts it runs a few instructions and then crawls.
    """
    try:
        with open("/dev/kvm", "rb+", buffering=0):
            pass
    except OSError:
        return "tcg"
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    remembered = cache_directory() / "kvm"
    if remembered.is_file() and remembered.read_text().split()[:1] == [boot]:
        return remembered.read_text().split()[1]
    arguments = ["-machine", "q35,kernel-irqchip=split", "-accel", "kvm", "-cpu", "host", "-m", "512M"]
    arguments += ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
    arguments += ["-kernel", str(image), "-append", "panic=-1 quiet"]  # it finds no root, and panics: that is the end
    try:
        done = subprocess.run(
            [*qemu.command, *arguments],
            timeout=KVM_DEADLINE,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        answer = "kvm" if done.returncode == 0 else "tcg"
    except subprocess.TimeoutExpired:
        answer = "tcg"
    remembered.write_text(f"{boot} {answer}\n")
    return answer
