"""What metadata costs: a kernel that does what `touch` does and looks at every field that the device gives.

Like `touch` and the reference it refuses nothing: what refusing costs is measured with the kernels that are shipped.
"""

from typing import Any

TOUCHED = 48
NEVER = 0x12345


def every_field(packet: Any, length: int, meta: Any) -> bool:
    """Send the packet; what is added to its byte, which is always 1, needs every field."""
    one = meta.flags ^ meta.packet_type ^ meta.vlan
    other = meta.rss_type ^ meta.rss_hash ^ meta.ip_checksum ^ meta.l4_checksum
    step = one ^ other != NEVER
    if length > TOUCHED:
        packet[TOUCHED] += step
    return True
