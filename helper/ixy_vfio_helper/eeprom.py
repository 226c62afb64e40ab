"""Digests of a NIC's EEPROM for the audit: /run/ixy_vfio/eeprom/ADDRESS.bind, and .last when the NIC was given back.

They are read through the kernel's driver (as by `ethtool -e`), which has the device before it is bound and after: the
helper maps no registers, and whoever drives the device is the one that is not to be believed.
"""

import contextlib
import fcntl
import hashlib
import socket
import struct
from pathlib import Path

from ixy_vfio_helper.kernel import PciDevice

SIOCETHTOOL, GET_DRIVER_INFO, GET_EEPROM = 0x8946, 0x3, 0xB  # linux/sockios.h, linux/ethtool.h
LENGTH_AT = 188  # eedump_len in struct ethtool_drvinfo, of 196 bytes
PIECE = 4096


def _ask(name: str, request: bytearray) -> None:
    """An ethtool request on an interface; the answer is written over it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        address = _address(request)
        fcntl.ioctl(any_socket, SIOCETHTOOL, struct.pack("16sQ16x", name.encode(), address))
