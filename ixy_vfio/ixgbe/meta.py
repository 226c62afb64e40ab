"""What a receive descriptor says of its packet, beside the length (datasheet 7.1.6.2)."""

from typing import Any

import numpy as np

from ixy_vfio.core.compiled import inlined
from ixy_vfio.ixgbe import desc
from ixy_vfio.netdev import Meta

U = np.uint64


@inlined
def _checksum(word: Any, checked: Any, wrong: Any) -> Any:
    """0 NOT_CHECKED, 1 GOOD or 2 BAD, without a branch; the error bit says nothing where nothing was checked."""
    return (word >> checked & U(1)) << (word >> wrong & U(1))


@inlined
def meta_of(first: Any, word: Any) -> Any:
    """The metadata in both words of a write-back, that of the packet's last buffer. VP is where TAGGED is."""
    return Meta(
        word & desc.RX_STATUS_MASK,
        first >> desc.RX_PACKET_TYPE_SHIFT & desc.RX_PACKET_TYPE_MASK,
        word >> desc.RX_VLAN_SHIFT,
        first & desc.RX_RSS_TYPE_MASK,
        first >> desc.RX_RSS_HASH_SHIFT,
        _checksum(word, desc.RX_IP_CHECKED_SHIFT, desc.RX_IP_ERROR_SHIFT),
        _checksum(word, desc.RX_L4_CHECKED_SHIFT, desc.RX_L4_ERROR_SHIFT),
    )
