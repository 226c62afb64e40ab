"""Which kernel a guest boots, and the initramfs of one that has its root file system's driver as a module.

`stock` is Debian's own (no IOMMUFD), fetched into the cache. `iommufd` is one with IOMMUFD and VFIO cdev: what
$IXY_VFIO_KERNEL names, or lies beside the tree, or scripts/vm-kernel has built. Anything else is the path of an image
with everything built in.
"""

import lzma
import os
import re
import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.vm.harness.debian import Debian, cache_directory, cache_lock
from tests.vm.harness.errors import Missing, VmError

ENVIRONMENT = "IXY_VFIO_KERNEL"
TREE = Path(__file__).resolve().parents[3]
ROOT_MODULES = ("9pnet_virtio", "9p", "overlay")  # what init needs before the guest sees any other module
INITRAMFS_INIT = """#!/busybox sh
/busybox mount -t proc proc /proc
for module in $(/busybox cat /order); do /busybox insmod "/$module" || echo "initramfs: no $module"; done
/busybox mount -t 9p -o trans=virtio,version=9p2000.L,cache=loose,msize=262144,ro hostroot /root
/busybox umount /proc
exec /busybox switch_root /root "$vm_init"
"""


@dataclass(frozen=True, slots=True)
class Kernel:
    """A bootable image; `root` is the folder of its unpacked package if it has modules."""

    image: Path
    root: Path | None = None


def find(name: str = "") -> Kernel:
    """The kernel called `stock`, `iommufd`, or a path; "" is $IXY_VFIO_KERNEL, else stock. Raises Missing."""
    name = name or os.environ.get(ENVIRONMENT, "") or "stock"
    if name == "stock":
        return stock()
    if name == "iommufd":
        return iommufd()
    if not Path(name).is_file():
        raise Missing(f"no kernel image {name}")
    return Kernel(Path(name).resolve())


def iommufd() -> Kernel:
    """The kernel with IOMMUFD. Raises Missing."""
    candidates = [Path(os.environ[ENVIRONMENT])] if os.environ.get(ENVIRONMENT) else []
    candidates.append(TREE.parent / "shared/vm/vmlinuz")
    candidates += sorted(cache_directory().glob("linux-iommufd-*/vmlinuz"), reverse=True)
    for path in candidates:
        if path.is_file():
            return Kernel(path.resolve())
    raise Missing(f"no kernel with IOMMUFD: set ${ENVIRONMENT}, or run scripts/vm-kernel (about 10 minutes)")


def _modules(root: Path) -> Path:
    (folder,) = (root / "usr/lib/modules").iterdir()
    return folder


def _unpacked(root: Path) -> Kernel:
    return Kernel(root / "boot" / f"vmlinuz-{_modules(root).name}", root)


def stock() -> Kernel:
    """Debian's kernel with its modules: of the cache, or fetched into it. Raises Missing."""
    with cache_lock():
        roots = sorted(cache_directory().glob("linux-stock-*"), reverse=True)
        if roots:
            return _unpacked(roots[0])
        print(f"fetching Debian's kernel into {cache_directory()} ...", file=sys.stderr)
        try:
            debian = Debian()
            package = next(name for name in debian.depends("linux-image-amd64") if name.startswith("linux-image-"))
            root = cache_directory() / f"linux-stock-{package.removeprefix('linux-image-')}"
            debian.unpack(["kmod"], root, dependencies=True, more=[package, "busybox-static"], finish=_index_modules)
        except Missing as missing:
            raise Missing(f"name a kernel by ${ENVIRONMENT}; fetching Debian's own failed: {missing}") from None
        return _unpacked(root)


def _index_modules(root: Path) -> None:
    """What installing the package would do: depmod."""
    shutil.copy(Path(__file__).with_name("kmod"), root / "kmod")
    (root / "depmod").symlink_to("kmod")
    subprocess.run([root / "depmod", "-b", root / "usr", _modules(root).name], check=True, timeout=600)


def _dependencies(modules: Path) -> dict[str, list[str]]:
    """modules.dep: module name -> the files to load for it, in order."""
    table = {}
    for line in (modules / "modules.dep").read_text().splitlines():
        file, _, needs = line.partition(":")
        name = re.sub(r"\.ko(\.\w+)?$", "", os.path.basename(file)).replace("-", "_")
        table[name] = [*reversed(needs.split()), file]
    return table


def _cpio(files: dict[str, bytes], folders: tuple[str, ...]) -> bytes:
    """A "newc" cpio archive (Linux Documentation/driver-api/early-userspace/buffer-format.rst)."""
    archive = bytearray()

    def member(name: str, mode: int, data: bytes) -> None:
        fields = (0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        archive.extend(b"070701" + b"".join(b"%08x" % field for field in fields) + name.encode() + b"\0")
        archive.extend(bytes(-len(archive) % 4))
        archive.extend(data + bytes(-len(data) % 4))

    for folder in folders:
        member(folder, stat.S_IFDIR | 0o755, b"")
    for name, data in files.items():
        member(name, stat.S_IFREG | 0o755, data)
    member("TRAILER!!!", 0, b"")
    return bytes(archive)


def initramfs(kernel: Kernel, extra: tuple[str, ...] = ()) -> bytes:
    """An initramfs that loads ROOT_MODULES and `extra`, mounts the root by 9p and goes on with its init."""
    if kernel.root is None:
        raise VmError(f"{kernel.image} has no modules, so it needs no initramfs")
    modules = _modules(kernel.root)
    table = _dependencies(modules)
    files = {"init": INITRAMFS_INIT.encode(), "busybox": (kernel.root / "usr/bin/busybox").read_bytes()}
    order = []
    for wanted in (*extra, *ROOT_MODULES):
        for path in table[wanted]:
            name = os.path.basename(path).removesuffix(".xz")
            data = (modules / path).read_bytes()
            if name not in order:
                order.append(name)
                files[name] = lzma.decompress(data) if path.endswith(".xz") else data
    return _cpio({**files, "order": "\n".join(order).encode()}, ("dev", "proc", "root"))
