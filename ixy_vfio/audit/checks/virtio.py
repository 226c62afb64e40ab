"""virtio devices: those that go past an IOMMU although they are behind it."""

from ixy_vfio.audit.host import DEVICES, Host, PciDevice
from ixy_vfio.audit.model import Findings, Severity, device_check, fail, passed, skip
from ixy_vfio.audit.reading import Reading

VIRTIO_VENDOR, VIRTIO_IDS, VIRTIO_MODERN = 0x1AF4, (0x1000, 0x1080), 0x1040  # virtio 1.2, 4.1.2
ACCESS_PLATFORM = 33  # virtio 1.2, 6; Linux shows feature bit n as the nth letter of `features`


@device_check("device.virtio", Severity.HIGH)
def virtio(host: Host, device: PciDevice) -> Findings:
    """The device's DMA goes through the IOMMU, also if it is virtio.

    A virtio device reaches memory past the IOMMU unless it offers VIRTIO_F_ACCESS_PLATFORM (feature bit 33, virtio 1.2
    section 6; QEMU: iommu_platform=on). It has an IOMMU group all the same. Looks at the features that Linux's virtio
    driver shows, while it has the device, else at the PCI id.

    Holds unless: the driver shows that the bit is not offered; the device is of the legacy or transitional kind (ids
    0x1000 to 0x103f), which cannot offer it. A modern device that no virtio driver has does not show its features:
    SKIP; give it to the kernel's driver to see them.

    Why: whoever drives such a device reads and writes all memory, and VFIO does not know.

    Fix: give the virtual machine the device with iommu_platform=on,disable-legacy=on; else do not give it away.
    """
    if device.vendor != VIRTIO_VENDOR or device.device not in range(*VIRTIO_IDS):
        yield passed("it is no virtio device", Reading(f"{DEVICES}/{device.address}/vendor", f"{device.vendor:#06x}"))
        return
    path = f"{DEVICES}/{device.address}"
    numbers = Reading(f"{path}/device", f"{device.device:#06x}")
    names = [name for name in host.system.names(path) if name.startswith("virtio")]
    shown = [host.read(f"{path}/{name}/features") for name in names]
    shown = [reading for reading in shown if reading.value is not None]
    if any((reading.value or "")[ACCESS_PLATFORM : ACCESS_PLATFORM + 1] != "1" for reading in shown):
        yield fail("it does not offer VIRTIO_F_ACCESS_PLATFORM: it reaches all memory", numbers, *shown)
    elif device.device < VIRTIO_MODERN:
        yield fail("a legacy or transitional virtio device reaches all memory", numbers)
    elif shown:
        yield passed("it offers VIRTIO_F_ACCESS_PLATFORM", *shown)
    else:
        yield skip("whether it offers VIRTIO_F_ACCESS_PLATFORM is shown while a virtio driver has it", numbers)
