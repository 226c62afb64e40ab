"""Where the registers of the Intel 82576 lie (BAR0), by the 82576 datasheet, chapter 8.

Rows stand in the order of the book; the section is that of the group of registers. I350 and I210 keep these offsets;
they have fewer queues and another number of receive addresses.
"""

from ixy_vfio.hw import Register, register

QUEUES = 16
# Pages of BAR0 that hold nothing but queue registers: (offset, size). The first four queues have aliases below 0x4000.
RX_QUEUE_PAGES = (0xC000, 0x1000)
TX_QUEUE_PAGES = (0xE000, 0x1000)

_ROWS: list[Register] = []


def _row(name: str, section: str, offset: int, stride: int = 4, count: int = 1) -> Register:
    row = register(name, section, offset, stride, count)
    _ROWS.append(row)
    return row


def _queue(name: str, section: str, offset: int) -> Register:
    return _row(name, section, offset, stride=0x40, count=QUEUES)


# 8.2 General control
CTRL = _row("CTRL", "8.2", 0x00000)
STATUS = _row("STATUS", "8.2", 0x00008)
CTRL_EXT = _row("CTRL_EXT", "8.2", 0x00018)
MDIC = _row("MDIC", "8.2", 0x00020)
PHPM = _row("PHPM", "8.2", 0x00E14)  # from the 82580 on

# 8.4 EEPROM and flash
EECD = _row("EECD", "8.4", 0x00010)

# 8.7 Semaphores
SWSM = _row("SWSM", "8.7", 0x05B50)
SW_FW_SYNC = _row("SW_FW_SYNC", "8.7", 0x05B5C)

# 8.8 Interrupt
EIMS = _row("EIMS", "8.8", 0x01524)
EIMC = _row("EIMC", "8.8", 0x01528)
EIAC = _row("EIAC", "8.8", 0x0152C)
ICR = _row("ICR", "8.8", 0x01500)
IMS = _row("IMS", "8.8", 0x01508)
IMC = _row("IMC", "8.8", 0x0150C)
EITR = _row("EITR", "8.8", 0x01680, count=25)
IVAR = _row("IVAR", "8.8", 0x01700, count=8)
IVAR_MISC = _row("IVAR_MISC", "8.8", 0x01740)
GPIE = _row("GPIE", "8.8", 0x01514)

# 8.10 Receive
RCTL = _row("RCTL", "8.10", 0x00100)
SRRCTL = _queue("SRRCTL", "8.10", 0x0C00C)
RDBAL = _queue("RDBAL", "8.10", 0x0C000)
RDBAH = _queue("RDBAH", "8.10", 0x0C004)
RDLEN = _queue("RDLEN", "8.10", 0x0C008)
RDH = _queue("RDH", "8.10", 0x0C010)
RDT = _queue("RDT", "8.10", 0x0C018)
RXDCTL = _queue("RXDCTL", "8.10", 0x0C028)
RQDPC = _queue("RQDPC", "8.10", 0x0C030)
DVMOLR = _queue("DVMOLR", "8.10", 0x0C038)  # from the 82580 on
RXCSUM = _row("RXCSUM", "8.10", 0x05000)
RLPML = _row("RLPML", "8.10", 0x05004)
MTA = _row("MTA", "8.10", 0x05200, count=128)
RAL = Register("RAL", "8.10", ((0x05400, 8, 16), (0x054E0, 8, 16)))
RAH = Register("RAH", "8.10", ((0x05404, 8, 16), (0x054E4, 8, 16)))
_ROWS += [RAL, RAH]
MRQC = _row("MRQC", "8.10", 0x05818)
RETA = _row("RETA", "8.10", 0x05C00, count=32)
RSSRK = _row("RSSRK", "8.10", 0x05C80, count=10)
UTA = _row("UTA", "8.10", 0x0A000, count=128)

# 8.12 Transmit
TCTL = _row("TCTL", "8.12", 0x00400)
TDBAL = _queue("TDBAL", "8.12", 0x0E000)
TDBAH = _queue("TDBAH", "8.12", 0x0E004)
TDLEN = _queue("TDLEN", "8.12", 0x0E008)
TDH = _queue("TDH", "8.12", 0x0E010)
TDT = _queue("TDT", "8.12", 0x0E018)
TXDCTL = _queue("TXDCTL", "8.12", 0x0E028)

# 8.19 Statistics
CRCERRS = _row("CRCERRS", "8.19", 0x04000)
ALGNERRC = _row("ALGNERRC", "8.19", 0x04004)
RXERRC = _row("RXERRC", "8.19", 0x0400C)
MPC = _row("MPC", "8.19", 0x04010)
RLEC = _row("RLEC", "8.19", 0x04040)
XONRXC = _row("XONRXC", "8.19", 0x04048)
XONTXC = _row("XONTXC", "8.19", 0x0404C)
XOFFRXC = _row("XOFFRXC", "8.19", 0x04050)
XOFFTXC = _row("XOFFTXC", "8.19", 0x04054)
PRC64 = _row("PRC64", "8.19", 0x0405C)
PRC127 = _row("PRC127", "8.19", 0x04060)
PRC255 = _row("PRC255", "8.19", 0x04064)
PRC511 = _row("PRC511", "8.19", 0x04068)
PRC1023 = _row("PRC1023", "8.19", 0x0406C)
PRC1522 = _row("PRC1522", "8.19", 0x04070)
GPRC = _row("GPRC", "8.19", 0x04074)
BPRC = _row("BPRC", "8.19", 0x04078)
MPRC = _row("MPRC", "8.19", 0x0407C)
GPTC = _row("GPTC", "8.19", 0x04080)
GORCL = _row("GORCL", "8.19", 0x04088)
GORCH = _row("GORCH", "8.19", 0x0408C)
GOTCL = _row("GOTCL", "8.19", 0x04090)
GOTCH = _row("GOTCH", "8.19", 0x04094)
RNBC = _row("RNBC", "8.19", 0x040A0)
RUC = _row("RUC", "8.19", 0x040A4)
RFC = _row("RFC", "8.19", 0x040A8)
ROC = _row("ROC", "8.19", 0x040AC)
RJC = _row("RJC", "8.19", 0x040B0)
TORL = _row("TORL", "8.19", 0x040C0)
TORH = _row("TORH", "8.19", 0x040C4)
TOTL = _row("TOTL", "8.19", 0x040C8)
TOTH = _row("TOTH", "8.19", 0x040CC)
TPR = _row("TPR", "8.19", 0x040D0)
TPT = _row("TPT", "8.19", 0x040D4)
PTC64 = _row("PTC64", "8.19", 0x040D8)
PTC127 = _row("PTC127", "8.19", 0x040DC)
PTC255 = _row("PTC255", "8.19", 0x040E0)
PTC511 = _row("PTC511", "8.19", 0x040E4)
PTC1023 = _row("PTC1023", "8.19", 0x040E8)
PTC1522 = _row("PTC1522", "8.19", 0x040EC)
MPTC = _row("MPTC", "8.19", 0x040F0)
BPTC = _row("BPTC", "8.19", 0x040F4)

ALL: tuple[Register, ...] = tuple(_ROWS)
BY_NAME: dict[str, Register] = {row.name: row for row in ALL}
