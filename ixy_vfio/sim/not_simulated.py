"""What drivers switch on and the model does not do: it is told once a port, and not passed over in silence.

The registers hold what is written, as on hardware; packets pass as if it were off.
"""

from ixy_vfio.hw import ixgbe

_ENABLED = 1 << 31  # of a filter register

# offset of a register -> bits that switch something on, and what.
SWITCHES: dict[int, tuple[int, str]] = {
    ixgbe.FDIRCTRL.offset(): (0x3, "flow director filters (FDIRCTRL)"),
    **{ixgbe.FTQF.offset(i): (_ENABLED, "5-tuple filters (FTQF)") for i in range(ixgbe.FTQF.count)},
    **{ixgbe.ETQF.offset(i): (_ENABLED, "EtherType filters (ETQF)") for i in range(ixgbe.ETQF.count)},
    ixgbe.SYNQF.offset(): (0x1, "SYN filters (SYNQF)"),
    ixgbe.VT_CTL.offset(): (0x1, "pools (VT_CTL)"),
    ixgbe.MRQC.offset(): (0xE, "queues by pool or traffic class (MRQC)"),
    ixgbe.MTQC.offset(): (0x3, "transmit queues by pool or traffic class (MTQC)"),
    **{ixgbe.RSCCTL.offset(i): (0x1, "merged packets (RSCCTL)") for i in range(ixgbe.RSCCTL.count)},
    ixgbe.TSYNCRXCTL.offset(): (0x10, "receive time stamps (TSYNCRXCTL)"),
    ixgbe.TSYNCTXCTL.offset(): (0x10, "transmit time stamps (TSYNCTXCTL)"),
    ixgbe.WUC.offset(): (0x2, "wake-up events (WUC)"),
    0x8A04: (0x3, "MACsec associations on transmit (LSECTXCTRL)"),
    0x8F04: (0xC, "MACsec associations on receive (LSECRXCTRL)"),
    0x8900: (0x1, "IPsec associations on transmit (IPSTXIDX)"),
    0x8E00: (0x1, "IPsec associations on receive (IPSRXIDX)"),
    **{0xF600 + 4 * i: (0xF, "mirrors (MRCTL)") for i in range(4)},
}
