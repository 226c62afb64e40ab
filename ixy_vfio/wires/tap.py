"""A cable to a TAP interface: what the port sends, the interface receives."""

import fcntl
import os
import struct

from ixy_vfio.core.errors import UsageError
from ixy_vfio.wires.outside import FdCable

_TUNSETIFF, _TUNGETIFF = 0x400454CA, 0x800454D2  # linux/if_tun.h
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
_IFREQ = struct.Struct("16sH22x")


class TapCable(FdCable):
    """A TAP file descriptor, without packet information."""

    def read(self) -> int:
        """One frame; 0 bytes never come from a TAP."""
        return os.readv(self.fd, [self.view])

    def write(self, frame: memoryview) -> None:
        """One frame."""
        os.write(self.fd, frame)


def is_tap(fd: int) -> bool:
    """Whether a file descriptor is a TAP that carries plain frames. Raises UsageError for one that does not."""
    request = bytearray(_IFREQ.size)
    try:
        fcntl.ioctl(fd, _TUNGETIFF, request)
    except OSError:
        return False
    flags = _IFREQ.unpack(request)[1]
    if not flags & _IFF_TAP or not flags & _IFF_NO_PI or flags & _IFF_VNET_HDR:
        raise UsageError(f"file descriptor {fd}: a TAP must be IFF_TAP | IFF_NO_PI, without IFF_VNET_HDR")
    return True


def open_tap(spec: str, port: int, name: str) -> TapCable:
    """A cable to the TAP interface `name`, which is made if it is not there. Raises UsageError."""
    if not 0 < len(name.encode()) < 16:
        raise UsageError(f"cable {spec}: an interface name has 1 to 15 bytes")
    try:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise UsageError(f"cable {spec}: /dev/net/tun: {error.strerror}") from None
    try:
        fcntl.ioctl(fd, _TUNSETIFF, _IFREQ.pack(name.encode(), _IFF_TAP | _IFF_NO_PI))
    except OSError as error:
        os.close(fd)
        raise UsageError(f"cable {spec}: {error.strerror}; it needs CAP_NET_ADMIN, or a TAP made for you") from None
    return TapCable(spec, port, fd)
