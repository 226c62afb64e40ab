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


def driver_for(vendor: int, device: int) -> str:
    """The name of the driver that serves a device with these ids; empty when none does."""
    return next((driver for driver, served in DRIVERS.items() if (vendor, device) in served), "")
