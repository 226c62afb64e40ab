"""The descriptors of the 82576, I350 and I210 (82576 datasheet, 7.1.5.2 and 7.2.2.3)."""

from ixy_vfio.drivers.intel import Bits, advanced

BITS = Bits(
    errors=1 << 31 | 3 << 27,  # 7.1.5.2: RXE (the MAC saw an error) and SECERR
    l4_error=29,  # 7.1.5.2: L4E
    ip_error=30,  # 7.1.5.2: IPE
    shortest=17,  # as Linux: with TCTL.PSP the device pads what has 17 bytes or more
)
FORMAT = advanced(BITS)
