"""The registers this driver uses, in the order of the 82599 datasheet (revision 3.4), chapter 8.2.3.

Where a register lies comes from `hw`; how it may be accessed and what its fields mean stands here. Only the fields
that the driver sets or shows are named: `modify` keeps all others as they are.
"""

from ixy_vfio.core.registers import Register
from ixy_vfio.drivers.ixgbe.regs import general, mac, packet

ALL: tuple[type[Register], ...] = tuple(
    value
    for module in (general, packet, mac)
    for value in vars(module).values()
    if isinstance(value, type) and value is not Register and issubclass(value, Register)
)
