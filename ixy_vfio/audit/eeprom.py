"""Writes down digests of a NIC's EEPROM, for the check device.eeprom: `ixy-vfio audit DEVICE --record-eeprom`.

It is read through the kernel's driver, as by `ethtool -e`: whoever drives the NIC from user space is the one that is
not to be believed. So a NIC is read before it is bound to vfio-pci, and after it was given back.
"""

import errno
import fcntl
import hashlib
import os
import socket
import struct
from array import array
from pathlib import Path

from ixy_vfio.audit.host import DEVICES
from ixy_vfio.core.errors import UsageError

RECORDS = Path("/var/lib/ixy_vfio/eeprom")
SIOCETHTOOL, GET_DRIVER_INFO, GET_EEPROM = 0x8946, 0x3, 0xB  # linux/sockios.h, linux/ethtool.h
DRIVER_INFO = struct.Struct("I160s12xIIIII")  # struct ethtool_drvinfo; the last but one is the EEPROM's size
EEPROM = struct.Struct("IIII")  # struct ethtool_eeprom: command, magic, offset, length; the bytes follow


def record(address: str, records: Path = RECORDS) -> Path:
    """Read the EEPROM, write its digest; returns the file: ADDRESS.first if there is none yet, else ADDRESS.last."""
    found = digest(address)
    try:
        records.mkdir(mode=0o755, parents=True, exist_ok=True)
        first = records / f"{address}.first"
        path = records / f"{address}.last" if first.exists() else first
        path.write_text(f"sha256:{found}\n")
    except OSError as error:
        raise UsageError(f"--record-eeprom: {error.filename}: {error.strerror}") from None
    return path


def digest(address: str) -> str:
    """SHA-256 of all that the kernel's driver shows of the EEPROM."""
    folder = Path(DEVICES, address, "net")
    interfaces = sorted(os.listdir(folder)) if folder.is_dir() else []
    if not interfaces:
        raise UsageError(
            f"--record-eeprom: {address} has no network interface; its EEPROM is read through the kernel's driver, "
            "before the device is bound to vfio-pci and after it was given back"
        )
    try:
        return hashlib.sha256(_read(interfaces[0])).hexdigest()
    except OSError as error:
        why = "run as root" if error.errno == errno.EPERM else "its driver shows no EEPROM"
        raise UsageError(f"--record-eeprom: {interfaces[0]}: {error.strerror}; {why}") from None


def _read(interface: str) -> bytes:
    size = DRIVER_INFO.unpack(_ask(interface, DRIVER_INFO.pack(GET_DRIVER_INFO, b"", 0, 0, 0, 0, 0)))[5]
    if not size:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    return _ask(interface, EEPROM.pack(GET_EEPROM, 0, 0, size) + bytes(size))[EEPROM.size :]


def _ask(interface: str, request: bytes) -> bytes:
    """An ethtool request; the answer stands where it stood."""
    buffer = array("B", request)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCETHTOOL, struct.pack("16sQ16x", interface.encode(), buffer.buffer_info()[0]))
    return buffer.tobytes()
