"""Runs in a guest: DMA of QEMU's edu device inside and outside what was mapped; prints what memory holds then."""

import json
import sys

from tests.vm.inside.raw_vfio import CdevDevice, Device, LegacyDevice, Page, bind, driver_of, edu_dma

SOURCE, TARGET, CANARY = 0x100000, 0x200000, 0x300000  # IOVAs; edu reaches 28 bits
UNMAPPED_WRITE, UNMAPPED_READ = 0x900000, 0xA00000


def main(path: str, address: str) -> None:
    bind(address, "vfio-pci")
    device: Device = LegacyDevice(address) if path == "legacy" else CdevDevice(address)
    source, target, canary = Page(b"source.."), Page(b"old....."), Page(b"canary..")
    for page, iova in ((source, SOURCE), (target, TARGET), (canary, CANARY)):
        device.map(page, iova)
    device.bus_master(True)
    edu_dma(device, SOURCE, to_memory=False)
    edu_dma(device, TARGET, to_memory=True)
    edu_dma(device, UNMAPPED_WRITE, to_memory=True)
    edu_dma(device, UNMAPPED_READ, to_memory=False)
    result = {name: page.memory[:8].decode() for name, page in (("target", target), ("canary", canary))}
    result["driver"] = driver_of(address)
    print(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
