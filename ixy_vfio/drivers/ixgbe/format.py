"""The descriptors of the 82599, X540 and X550 (datasheet revision 3.4, 7.1.6 and 7.2.3)."""

from ixy_vfio.drivers.intel import Bits, advanced

BITS = Bits(
    errors=1 << 29 | 3 << 27,  # 7.1.6.2: RXE (the MAC saw an error) and SECERR
    l4_error=30,  # 7.1.6.2: L4E
    ip_error=31,  # 7.1.6.2: IPE
    shortest=17,  # 7.2.3.2.4; nothing shorter is on a wire
)
FORMAT = advanced(BITS)
