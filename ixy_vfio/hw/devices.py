"""Which NICs there are drivers for, by PCI vendor and device id. The helper needs the same list, and keeps it."""

from ixy_vfio_helper.nics import DRIVERS, INTEL, NOT_SERVED, driver_for

__all__ = ["DRIVERS", "INTEL", "NOT_SERVED", "driver_for", "name_of"]


def name_of(vendor: int, device: int) -> str:
    """What a device with these ids is called; "unknown" when no driver serves it."""
    driver = driver_for(vendor, device)
    return DRIVERS[driver][vendor, device] if driver else "unknown"
