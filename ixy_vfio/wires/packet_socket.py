"""A cable to a Linux interface, by a packet socket: what the port sends leaves by the interface.

Frames are plain: offloads on the interface at the far end (segmentation, checksums) are to be off, as `ethtool -K`
does. A frame that is longer than the port's largest is counted as oversize, one that the kernel has left without its
checksum as unfinished; neither is a frame that a wire carries.
"""

import errno
import fcntl
import os
import socket
import struct
import time

from ixy_vfio.core.errors import UsageError
from ixy_vfio.wires.cable import Plane
from ixy_vfio.wires.outside import FdCable
from ixy_vfio.wires.tap import TapCable, is_tap

_ETH_P_ALL = 3
_SIOCGIFFLAGS, _IFF_UP = 0x8913, 1
_LOOK_AGAIN = 0.1  # seconds between looks at an interface that is down
_SOL_PACKET, _PACKET_AUXDATA, _PACKET_IGNORE_OUTGOING = 263, 8, 23  # linux/if_packet.h
_AUXDATA = struct.Struct("IIIHHHH")  # status, len, snaplen, mac, net, vlan tci, vlan type
_CSUM_NOT_READY, _VLAN_VALID, _VLAN_TYPE_VALID = 1 << 3, 1 << 4, 1 << 6
_ANCILLARY = socket.CMSG_SPACE(_AUXDATA.size)
_BUFFERED = 4 << 20  # bytes; the kernel may give less


class PacketCable(FdCable):
    """A packet socket that is bound to an interface."""

    def __init__(self, spec: str, port: int, connection: socket.socket) -> None:
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            connection.setsockopt(socket.SOL_SOCKET, option, _BUFFERED)
        connection.setsockopt(_SOL_PACKET, _PACKET_AUXDATA, 1)
        connection.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)  # or we would hear what we send
        self._socket = connection
        self._interface = str(connection.getsockname()[0])
        self._next_look = 0.0
        self.unfinished = 0
        super().__init__(spec, port, connection.fileno())

    def read(self) -> int:
        """One frame. The kernel has taken a VLAN tag out, and says so beside it: it is put back."""
        length, ancillary, _, _ = self._socket.recvmsg_into([self.view], _ANCILLARY, socket.MSG_TRUNC)
        for level, kind, data in ancillary:
            if (level, kind) == (_SOL_PACKET, _PACKET_AUXDATA) and len(data) >= _AUXDATA.size:
                status, _, _, _, _, tag, protocol = _AUXDATA.unpack_from(data)
                if status & _CSUM_NOT_READY:
                    self.unfinished += 1
                    return 0
                if status & _VLAN_VALID:
                    protocol = protocol if status & _VLAN_TYPE_VALID else 0x8100
                    self.view[16 : length + 4] = self.view[12:length].tobytes()
                    self.view[12:16] = struct.pack(">HH", protocol, tag)
                    return length + 4
        return length

    def write(self, frame: memoryview) -> None:
        """One frame."""
        self._socket.send(frame)

    def bring(self, plane: Plane, budget: int) -> int:
        """Frames from the interface; one that was down may be up again."""
        if not self.alive and self.fd >= 0 and time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + _LOOK_AGAIN
            self.alive = self._is_up()
        return super().bring(plane, budget)

    def _is_up(self) -> bool:
        request = bytearray(struct.pack("16s24x", self._interface.encode()))
        try:
            fcntl.ioctl(self.fd, _SIOCGIFFLAGS, request)
        except OSError:
            return False
        return bool(struct.unpack_from("16xH", request)[0] & _IFF_UP)

    def failed(self, error: OSError) -> None:
        """ENETDOWN is how the socket tells that its interface went down, or away."""
        if error.errno == errno.ENETDOWN:
            self.alive = False
        else:
            super().failed(error)

    def status(self) -> dict[str, object]:
        """Adds the frames without a checksum."""
        return super().status() | {"unfinished": self.unfinished}

    def close(self) -> None:
        """Close the socket."""
        self.alive, self.fd = False, -1
        self._socket.close()


def open_packet(spec: str, port: int, interface: str) -> PacketCable:
    """A cable to `interface`. Raises UsageError."""
    try:
        connection = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    except OSError as error:
        raise UsageError(f"cable {spec}: packet socket: {error.strerror}; it needs CAP_NET_RAW") from None
    try:
        connection.bind((interface, _ETH_P_ALL))
    except OSError as error:
        connection.close()
        raise UsageError(f"cable {spec}: interface {interface!r}: {error.strerror}") from None
    return PacketCable(spec, port, connection)


def open_fd(spec: str, port: int, number: str) -> FdCable:
    """A cable on an inherited packet socket (bound) or TAP. It is ours to close. Raises UsageError."""
    if not number.isascii() or not number.isdigit():
        raise UsageError(f"cable {spec}: {number!r} is no file descriptor")
    fd = int(number)
    try:
        os.fstat(fd)
    except OSError:
        raise UsageError(f"cable {spec}: there is no file descriptor {fd}") from None
    if is_tap(fd):
        return TapCable(spec, port, fd)
    try:
        connection = socket.socket(fileno=fd)
    except OSError:
        raise UsageError(f"cable {spec}: file descriptor {fd} is neither a packet socket nor a TAP") from None
    if connection.family != socket.AF_PACKET or connection.type != socket.SOCK_RAW:
        connection.detach()
        raise UsageError(f"cable {spec}: file descriptor {fd} is neither a packet socket nor a TAP")
    return PacketCable(spec, port, connection)
