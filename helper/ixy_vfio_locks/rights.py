"""Capabilities, new privileges, and mappings that stay as they are. Numbers: linux/capability.h; mseal(2)."""

import struct

from ixy_vfio_locks.calls import PR_CAPBSET_DROP, PR_CAPBSET_READ, PR_SET_NO_NEW_PRIVS, call, prctl, syscall

_CAPABILITY_VERSION_3 = 0x2008_0522
_MSEAL = 462  # on every architecture


def no_new_privileges() -> None:
    """No program that this process may start has more rights. Raises OSError."""
    prctl(PR_SET_NO_NEW_PRIVS, 1)


def set_capabilities(mask: int) -> None:
    """Effective and permitted are exactly these; none is inherited, so none is ambient.

    Raises OSError, also where this process lacks one of them.
    """
    low, high = mask & 0xFFFF_FFFF, mask >> 32
    header, data = struct.pack("<Ii", _CAPABILITY_VERSION_3, 0), struct.pack("<6I", low, low, 0, high, high, 0)
    call("capset", header, data)


def bound_capabilities(mask: int) -> None:
    """No program that this process starts gets others than these. Raises OSError; takes CAP_SETPCAP."""
    for number in range(64):
        if not mask >> number & 1 and prctl(PR_CAPBSET_READ, number):
            prctl(PR_CAPBSET_DROP, number)


def seal_mapping(address: int, size: int) -> None:
    """These pages can be neither moved, remapped nor unmapped, nor their rights changed. Raises OSError."""
    syscall("mseal", _MSEAL, address, size, 0)
