"""Which NICs the drivers of this project serve, by PCI vendor and device id. There is no other list of them.

It stands here because root runs nothing but the standard library and this package; the drivers' side reads it, too
(`ixy_vfio.hw.devices`).
"""

INTEL = 0x8086

DRIVERS: dict[str, dict[tuple[int, int], str]] = {  # driver -> ids -> name of the device
    "ixgbe": {
        (INTEL, 0x10F7): "82599 KX4",
        (INTEL, 0x10F8): "82599 combo backplane",
        (INTEL, 0x10F9): "82599 CX4",
        (INTEL, 0x10FB): "82599ES SFI/SFP+",
        (INTEL, 0x10FC): "82599 XAUI",
        (INTEL, 0x1507): "82599 SFP+ EM",
        (INTEL, 0x1514): "82599 KX4 mezzanine",
        (INTEL, 0x1517): "82599 KR",
        (INTEL, 0x151C): "82599 10GBASE-T",
        (INTEL, 0x154D): "82599 SFP+ (X520-2)",
        (INTEL, 0x1557): "82599EN SFP+",
        (INTEL, 0x1528): "X540-AT2",
        (INTEL, 0x1560): "X540-AT1",
        (INTEL, 0x1563): "X550-T2",
        (INTEL, 0x15D1): "X550-T1",
    },
    "igb": {
        (INTEL, 0x10C9): "82576",
        (INTEL, 0x10E8): "82576 quad copper",
        (INTEL, 0x1526): "82576 quad copper ET2",
        (INTEL, 0x150A): "82576 NS",
        (INTEL, 0x1521): "I350 copper",
        (INTEL, 0x1533): "I210 copper",
        (INTEL, 0x157B): "I210 copper, without flash",
        (INTEL, 0x1539): "I211 copper",
    },
}

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


def driver_for(vendor: int, device: int) -> str:
    """The name of the driver that serves a device with these ids; empty when none does."""
    return next((driver for driver, served in DRIVERS.items() if (vendor, device) in served), "")
