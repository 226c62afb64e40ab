"""A user-space network driver in Python for Intel ixgbe and igb NICs, isolated by VFIO and the IOMMU.

    import ixy_vfio

    with ixy_vfio.open_ports("0000:03:00.0", "0000:03:00.1") as (a, b):
        for _ in range(1_000_000):
            batch = a.rx(32)                 # up to 32 packets; does not wait
            for packet in batch:             # a writable uint8 array each
                packet[48] += 1
            b.tx(batch)
        print(a.counted, b.counted)

`runtime/session.py` has the rest. Nothing heavy is imported before it is used.
"""

TYPE_CHECKING = False  # as in `typing`, which takes a few milliseconds of each start
if TYPE_CHECKING:
    from typing import Any

    from ixy_vfio.datapath.verdict import DROP, RETURN, SEND
    from ixy_vfio.drivers.contract import PortConfig
    from ixy_vfio.runtime.batch import Batch, kernel
    from ixy_vfio.runtime.session import Port
    from ixy_vfio.runtime.session import Session as open_ports
    from ixy_vfio.transport.lease import Lease

_WHERE = {
    "DROP": ("ixy_vfio.datapath.verdict", "DROP"),
    "RETURN": ("ixy_vfio.datapath.verdict", "RETURN"),
    "SEND": ("ixy_vfio.datapath.verdict", "SEND"),
    "Batch": ("ixy_vfio.runtime.batch", "Batch"),
    "Lease": ("ixy_vfio.transport.lease", "Lease"),
    "Port": ("ixy_vfio.runtime.session", "Port"),
    "PortConfig": ("ixy_vfio.drivers.contract", "PortConfig"),
    "kernel": ("ixy_vfio.runtime.batch", "kernel"),
    "open_ports": ("ixy_vfio.runtime.session", "Session"),
}

__all__ = ["DROP", "RETURN", "SEND", "Batch", "Lease", "Port", "PortConfig", "kernel", "open_ports"]


def __getattr__(name: str) -> "Any":
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    module, attribute = _WHERE[name]
    return getattr(importlib.import_module(module), attribute)
