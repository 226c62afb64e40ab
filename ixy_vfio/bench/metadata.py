"""What metadata costs: a kernel that does what `touch` does and looks at every field that the device gives."""

from typing import Any

TOUCHED = 48
NEVER = 0x12345


def every_field(packet: Any, length: int, meta: Any) -> bool:
    """Send the packet; the comparison, which is always true, needs every field."""
    if length > TOUCHED:
        packet[TOUCHED] += 1
    one = meta.flags ^ meta.packet_type ^ meta.vlan
    other = meta.rss_type ^ meta.rss_hash ^ meta.ip_checksum ^ meta.l4_checksum
    return bool(one ^ other != NEVER)
