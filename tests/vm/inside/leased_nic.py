"""A NIC of ours in a guest: bound and leased by the helper, reached by the driver's own transport."""

import json
import os
import sys

from ixy_vfio.transport.lease import Lease, Purpose


def main(address: str, uid: int) -> None:
    """Lease the NIC; look at it, let two interrupts be set, reset it, and give it back."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    with Lease("/run/ixy_vfio/helper.sock") as lease:
        listed = [(info.address, info.driver, int(info.state)) for info in lease.devices()]
        device = lease.attach(address)
        rings = lease.memory(16384, [device], Purpose.RINGS)
        device.reset()
        page = device.bar0.map(0x1000, 0x1000)
        eventfds = [os.eventfd(0), os.eventfd(0)]
        device.set_interrupts(eventfds)
        device.set_interrupts([])
        device.config_write(4, 2, 0x6)
        print(json.dumps({
            "listed": listed, "ids": hex(device.config_read(0, 4)), "size": device.bar0.size,
            "vectors": device.msix_vectors, "command": hex(device.config_read(4, 2)), "iova": rings.iova,
            "rxdctl": device.bar0.read32(0x1028), "mapped": len(page.view),
        }))  # fmt: skip
        page.close()
        rings.close()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
