"""`scripts/vm-kernel`: the kernel with IOMMUFD, that Debian's own is built without."""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.vm.harness import kernel
from tests.vm.harness.debian import BACKPORTS, Debian, cache_directory, cache_lock
from tests.vm.harness.errors import Missing, VmError

FRAGMENT = kernel.TREE / "scripts/kernel.fragment"
# What the build calls, and the Debian package that has it.
TOOLS = {
    "make": "make",
    "gcc": "gcc",
    "ld": "binutils",
    "flex": "flex",
    "bison": "bison",
    "bc": "bc",
    "lz4": "lz4",
    "xz": "xz-utils",
}
HEADERS = {"gelf.h": "libelf-dev"}  # for objtool
BUILD_DEADLINE = 2 * 3600.0
WANTED = ("CONFIG_IOMMUFD=y", "CONFIG_VFIO_DEVICE_CDEV=y", "CONFIG_9P_FS=y", "CONFIG_IXGBE=y", "CONFIG_OVERLAY_FS=y")


def _has_header(name: str) -> bool:
    argv = ["gcc", "-fsyntax-only", "-x", "c", "-include", name, "/dev/null"]
    return subprocess.run(argv, stderr=subprocess.DEVNULL, timeout=60, check=False).returncode == 0


def _lacking() -> list[str]:
    """Packages that are not there."""
    lacking = [package for tool, package in TOOLS.items() if shutil.which(tool) is None]
    if "gcc" in lacking:
        return [*lacking, *HEADERS.values()]
    return lacking + [package for header, package in HEADERS.items() if not _has_header(header)]


def _check_tools() -> None:
    """Raises Missing with the packages that are not there; installs them if this is root on Debian."""
    missing = _lacking()
    if missing and os.geteuid() == 0 and shutil.which("apt-get"):
        print(f"installing {' '.join(missing)} ...", file=sys.stderr)
        subprocess.run(
            ["apt-get", "install", "-qq", "--yes", "--no-install-recommends", *missing],
            stdout=sys.stderr,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            check=False,
        )
        missing = _lacking()
    if missing:
        raise Missing(f"install {' '.join(missing)}")


def _make(source: Path, *words: str) -> None:
    """Run make; raises VmError with the end of its log."""
    with open(source / "build.log", "ab+") as log:
        done = subprocess.run(
            ["make", "-C", source, f"-j{os.cpu_count() or 1}", *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            timeout=BUILD_DEADLINE,
            check=False,
        )
        if done.returncode:
            log.seek(max(0, log.tell() - 2000))
            raise VmError(f"make {' '.join(words)} failed:\n{log.read().decode(errors='replace')}")


def _build(work: Path, package: str) -> Path:
    """Unpack the source in `package`, configure, compile; returns the image."""
    (archive,) = (work / "package/usr/src").glob("linux-source-*.tar.xz")
    subprocess.run(["tar", "-xf", archive, "-C", work], check=True, timeout=BUILD_DEADLINE)
    source = work / package
    _make(source, "tinyconfig")
    merge: list[str | Path] = [
        f"{source}/scripts/kconfig/merge_config.sh",
        "-m",
        "-O",
        source,
        f"{source}/.config",
        FRAGMENT,
    ]
    subprocess.run(merge, check=True, stdout=subprocess.DEVNULL, cwd=source, timeout=600)
    _make(source, "olddefconfig")
    asked = {line for line in FRAGMENT.read_text().splitlines() if line.endswith("=y")}
    lost = sorted(asked - set((source / ".config").read_text().splitlines()))
    if lost and set(lost) & set(WANTED):
        raise VmError(f"{package} does not know {', '.join(lost)}: scripts/kernel.fragment is out of date")
    if lost:
        print(f"{package} does not know {', '.join(lost)}; going on without", file=sys.stderr)
    print("compiling ...", file=sys.stderr)
    _make(source, "bzImage")
    return source / "arch/x86/boot/bzImage"


def build() -> Path:
    """Build into the cache; returns the image. Raises Missing and VmError."""
    _check_tools()
    with cache_lock():
        debian = Debian()
        # linux-source depends on the newest linux-source-X.Y of the suite.
        package = next((n for n in debian.depends("linux-source", BACKPORTS) if n.startswith("linux-source-")), "")
        if not re.fullmatch(r"linux-source-[\d.]+", package):
            raise Missing(f"{BACKPORTS} has no linux-source package")
        target = cache_directory() / f"linux-iommufd-{debian.version(package, BACKPORTS)}"
        print(f"fetching {package} ...", file=sys.stderr)
        work = Path(tempfile.mkdtemp(dir=cache_directory(), prefix="build-"))
        debian.unpack([package], work / "package", BACKPORTS)
    try:
        (work / "done").mkdir()
        shutil.copy(_build(work, package), work / "done/vmlinuz")
        if not target.exists():
            (work / "done").rename(target)
        return target / "vmlinuz"
    finally:
        shutil.rmtree(work)


def main() -> int:
    """Say where the kernel is; build it first if there is none."""
    parser = argparse.ArgumentParser(prog="scripts/vm-kernel", description=__doc__)
    parser.add_argument("--force", action="store_true", help="build one even if there is one")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that the build folder goes
    try:
        if not arguments.force:
            try:
                print(kernel.iommufd().image)
                return 0
            except Missing:
                pass
        print(build())
        return 0
    except Missing as missing:
        print(f"scripts/vm-kernel: {missing}", file=sys.stderr)
        return 2
    except VmError as error:
        print(f"scripts/vm-kernel: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
