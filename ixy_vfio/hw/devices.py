"""Which NICs there are drivers for, by PCI vendor and device id, and what else is to be known of them at a glance.

The helper needs the list of ids, and keeps it.
"""

from ixy_vfio_helper.nics import DRIVERS, INTEL, driver_for

__all__ = ["DRIVERS", "INTEL", "NOT_SERVED", "QUEUE_PAGES", "driver_for", "name_of"]

# Devices that the kernel's drivers of the same names serve, and ours do not: their kind, for the message that says so.
NOT_SERVED: dict[tuple[int, int], str] = {
    (INTEL, 0x10A7): "82575 copper",
    (INTEL, 0x10A9): "82575 fiber or SerDes",
    (INTEL, 0x10D6): "82575 quad copper",
    (INTEL, 0x10E6): "82576 fiber",
    (INTEL, 0x10E7): "82576 SerDes",
    (INTEL, 0x150D): "82576 quad SerDes",
    (INTEL, 0x1518): "82576 NS SerDes",
    (INTEL, 0x150E): "82580 copper",
    (INTEL, 0x150F): "82580 fiber",
    (INTEL, 0x1510): "82580 SerDes",
    (INTEL, 0x1511): "82580 SGMII",
    (INTEL, 0x1516): "82580 dual copper",
    (INTEL, 0x1527): "82580 quad fiber",
    (INTEL, 0x1522): "I350 fiber",
    (INTEL, 0x1523): "I350 SerDes",
    (INTEL, 0x1524): "I350 SGMII",
    (INTEL, 0x1536): "I210 fiber",
    (INTEL, 0x1537): "I210 SerDes",
    (INTEL, 0x1538): "I210 SGMII",
    (INTEL, 0x157C): "I210 SerDes, without flash",
    (INTEL, 0x1F40): "I354 backplane",
    (INTEL, 0x1F41): "I354 SGMII",
    (INTEL, 0x1F45): "I354 backplane, 2.5 Gbit/s",
    (INTEL, 0x0438): "DH89xxCC SGMII",
    (INTEL, 0x043A): "DH89xxCC SerDes",
    (INTEL, 0x043C): "DH89xxCC backplane",
    (INTEL, 0x0440): "DH89xxCC SFP",
}

# Pages of BAR0 that hold nothing but queues (base, length, head, tail of rings), as (begin, end): a worker's share.
# Datasheets: 82599, sections 8.2.3.8 and 9; 82576, 8.10 and 8.12.
QUEUE_PAGES: dict[str, tuple[tuple[int, int], ...]] = {
    "ixgbe": ((0x1000, 0x2000), (0x6000, 0x8000), (0xD000, 0xE000)),
    "igb": ((0xC000, 0xD000), (0xE000, 0xF000)),
}


def name_of(vendor: int, device: int) -> str:
    """What a device with these ids is called; "unknown" when no driver serves it."""
    driver = driver_for(vendor, device)
    return DRIVERS[driver][vendor, device] if driver else "unknown"
