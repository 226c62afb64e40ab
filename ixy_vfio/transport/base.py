"""What a driver sees of a device, whichever way it is reached. One page, two implementations.

`vfio.py` reaches a device through the kernel (a VFIO device file descriptor), `vfio_user.py` through a socket
(the vfio-user protocol, which the simulated NIC speaks). Both get their file descriptor from the helper, by
`lease.py`. A driver imports this module and no other of the package.
"""

from collections.abc import Sequence
from typing import Protocol

from ixy_vfio.core.memory import Mapping


class Bar(Protocol):
    """BAR0: memory-mapped registers, 32-bit accesses only."""

    size: int

    def read32(self, offset: int) -> int:
        """Read the register at byte `offset` (aligned to 4, below size; else UsageError)."""

    def write32(self, offset: int, value: int) -> None:
        """Write the register at byte `offset`; one 32-bit store or message. `value` is 0..2**32-1, else UsageError."""

    def map(self, offset: int, size: int) -> Mapping:
        """Map whole pages of the BAR for a data path. The caller owns the mapping; it survives `Device.close`.

        Raises UsageError where the device does not let this range be mapped.
        """


class Device(Protocol):
    """A PCI device that the helper has bound, attached to an IOMMU domain of its own, and passed."""

    address: str

    @property
    def bar0(self) -> Bar:
        """The registers."""

    def config_read(self, offset: int, size: int) -> int:
        """Read 1, 2 or 4 bytes of PCI configuration space, little-endian."""

    def config_write(self, offset: int, size: int, value: int) -> None:
        """Write 1, 2 or 4 bytes of PCI configuration space."""

    @property
    def msix_vectors(self) -> int:
        """How many MSI-X vectors the device has."""

    def set_interrupts(self, eventfds: Sequence[int]) -> None:
        """Signal eventfds[i] for MSI-X vector i from now on; an empty sequence turns all off."""

    def reset(self) -> None:
        """Function level reset. Bus mastering stays as it was (VFIO_DEVICE_RESET does not clear it)."""

    def close(self) -> None:
        """Close the file descriptor and every mapping that `map` did not hand out. Idempotent."""
