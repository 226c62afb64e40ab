"""What binding and setup ask of a PCI device, and a lease does not."""

from ixy_vfio_helper import addresses
from ixy_vfio_helper.identity import ACCESS_PLATFORM, Device
from ixy_vfio_helper.monitor import Refusal


def full_address(text: str) -> str:
    """The PCI address that somebody typed; the domain 0000: may be left out. Raises Refusal."""
    try:
        return addresses.full_address(text)
    except ValueError as error:
        raise Refusal(str(error)) from None


def remaps_interrupts(interrupts: str) -> bool:
    """Whether /proc/interrupts has a controller IR-..., behind the counts; names that others give come behind it."""
    rows = [line.split() for line in interrupts.split("\n")]
    counted = [row[1:] for row in rows if row and row[0].rstrip(":").isdigit()]
    return any(next((word for word in row if not word.isdigit()), "").startswith("IR-") for row in counted)


def driver_saw(device: Device) -> bool | None:
    """Whether Linux's virtio driver was offered ACCESS_PLATFORM, which it always takes; None when it has not got it."""
    texts = [device.read(f"{name}/features") for name in device.entries("") if name.startswith("virtio")]
    return any(text[ACCESS_PLATFORM : ACCESS_PLATFORM + 1] == "1" for text in texts) if any(texts) else None
