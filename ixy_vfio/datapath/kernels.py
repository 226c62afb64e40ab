"""What a forwarder does with each packet: the kernels that are shipped, and how a user's own is loaded.

A kernel is a plain function, compiled into the forwarding loop. `packet` is a writable uint8 array of the bytes in
the first buffer, up to 2048; `length` that of the whole packet.

    def kernel(packet, length):
        packet[48] += 1
        return True               # True: send it, False: drop it

It may return a verdict instead of a Boolean: `verdict.py`. With RETURN a packet goes back to the port it came from.

A third parameter `meta` is what the device says of the packet (`format.Meta`).

The file of a user's kernel is run at each start. Values that its code uses (globals, closures, called functions) are
constants in the compiled code; when one of them is another than before, the kernel is compiled anew (`frozen.py`).
"""

import importlib.util
import linecache
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ixy_vfio.core.errors import UsageError
from ixy_vfio.datapath.format import BAD, Meta

TOUCHED = 48  # the byte that ixy's forwarders change, so that every packet is fetched into the first level cache


def touch(packet: Any, length: int) -> bool:
    """Change one byte of each packet, as the forwarder of the paper does."""
    if length > TOUCHED:
        packet[TOUCHED] += 1
    return True


def swap(packet: Any, length: int) -> bool:
    """Exchange source and destination MAC address."""
    for i in range(6):
        packet[i], packet[i + 6] = packet[i + 6], packet[i]
    return True


def drop(packet: Any, length: int) -> bool:
    """Drop every packet."""
    return False


def none(packet: Any, length: int) -> bool:
    """Forward every packet as it is."""
    return True


def sample(packet: Any, length: int) -> bool:
    """Forward one packet in 16, chosen by its content: those whose Ethernet, IPv4 and UDP headers add up to it."""
    total = 0
    for i in range(42 if length > 42 else length):
        total += packet[i]
    return total % 16 == 0


def udp(packet: Any, length: int) -> bool:
    """Forward UDP over IPv4, and nothing else: a filter by headers."""
    return length >= 34 and packet[12] == 8 and packet[13] == 0 and packet[23] == 17


def intact(packet: Any, length: int, meta: Meta) -> bool:
    """Drop packets whose IPv4, TCP or UDP checksum the device found wrong: a filter by metadata."""
    return meta.ip_checksum != BAD and meta.l4_checksum != BAD


SHIPPED: dict[str, Callable[..., bool]] = {
    kernel.__name__: kernel for kernel in (touch, swap, drop, none, sample, udp, intact)
}


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel; `key` tells it apart in the cache of compiled code. None: it is compiled anew, and `note` says why."""

    name: str
    function: Callable[..., bool]
    key: str | None
    note: str = ""
    shipped: bool = False  # with this package, and known to be sound: it is not checked


def load(name: str) -> Kernel:
    """The shipped kernel `name`, or that of FILE.py:FUNCTION. UsageError when there is none."""
    if name in SHIPPED:
        return Kernel(name, SHIPPED[name], name, shipped=True)
    path, colon, attribute = name.rpartition(":")
    if not colon:
        raise UsageError(f"kernel {name}: none of {', '.join(SHIPPED)}, and not of the form FILE.py:FUNCTION")
    try:
        Path(path).open("rb").close()
    except OSError as error:
        raise UsageError(f"kernel {path}: {error.strerror}") from None
    from ixy_vfio.datapath import frozen  # the compiler, which takes a while

    extensions = frozen.extensions()
    function = getattr(_import(path), attribute, None)
    if not callable(function):
        raise UsageError(f"kernel {path}: has no function {attribute}")
    try:
        if frozen.extensions() != extensions:
            raise frozen.Uncertain("extensions of the compiler")
        return Kernel(attribute, function, f"{attribute}_{frozen.digest(function)}")
    except frozen.Uncertain as error:
        note = f"kernel {attribute} is compiled anew at each start, as this cannot be compared with before: {error}"
        return Kernel(attribute, function, None, note)


def _import(path: str) -> Any:
    name = Path(path).stem.encode("ascii", "backslashreplace").decode()  # the compiler takes it into names of its own
    specification = importlib.util.spec_from_file_location(f"ixy_vfio_kernel_{name}", path)
    if specification is None or specification.loader is None:
        raise UsageError(f"kernel {path}: not a Python file (its name must end in .py)")
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    try:
        specification.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        lines = [at.lineno for at in traceback.extract_tb(error.__traceback__) if at.filename == path]
        where = f"{path}:{lines[-1]}: `{linecache.getline(path, lines[-1] or 0).strip()}`" if lines else path
        raise UsageError(f"kernel {where}: {type(error).__name__}: {' '.join(str(error).split())}") from None
    return module
