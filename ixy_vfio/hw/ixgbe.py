"""Where the registers of the Intel 82599 lie (BAR0), by the 82599 datasheet, chapter 8.2.3.

Rows stand in the order of the book. The section is that of the group of registers. X540 and X550 keep these
offsets for every row here.
"""

from ixy_vfio.hw import Register, register

BAR0_SIZE = 0x80000
VENDOR_INTEL = 0x8086
RX_QUEUES = 128
TX_QUEUES = 128
# Pages of BAR0 that hold nothing but queue registers: (offset, size).
RX_QUEUE_PAGES = (0x1000, 0x1000)  # receive queues 0-63
TX_QUEUE_PAGES = (0x6000, 0x2000)  # transmit queues 0-127

DEVICE_IDS: dict[int, str] = {
    0x10F7: "82599 KX4",
    0x10F8: "82599 combo backplane",
    0x10F9: "82599 CX4",
    0x10FB: "82599ES SFI/SFP+",
    0x10FC: "82599 XAUI",
    0x1507: "82599 SFP+ EM",
    0x1514: "82599 KX4 mezzanine",
    0x1517: "82599 KR",
    0x151C: "82599 10GBASE-T",
    0x154D: "82599 SFP+ (X520-2)",
    0x1557: "82599EN SFP+",
    0x1528: "X540-AT2",
    0x1560: "X540-AT1",
    0x1563: "X550-T2",
    0x15D1: "X550-T1",
}

_ROWS: list[Register] = []


def _row(name: str, section: str, offset: int, stride: int = 4, count: int = 1, high: int | None = None) -> Register:
    row = register(name, section, offset, stride, count, high)
    _ROWS.append(row)
    return row


# 8.2.3.1 General control
CTRL = _row("CTRL", "8.2.3.1", 0x00000)
STATUS = _row("STATUS", "8.2.3.1", 0x00008)
CTRL_EXT = _row("CTRL_EXT", "8.2.3.1", 0x00018)
ESDP = _row("ESDP", "8.2.3.1", 0x00020)
I2CCTL = _row("I2CCTL", "8.2.3.1", 0x00028)
FRTIMER = _row("FRTIMER", "8.2.3.1", 0x00048)
TCPTIMER = _row("TCPTIMER", "8.2.3.1", 0x0004C)
LEDCTL = _row("LEDCTL", "8.2.3.1", 0x00200)
EXVET = _row("EXVET", "8.2.3.1", 0x05078)

# 8.2.3.2 EEPROM and flash
EEC = _row("EEC", "8.2.3.2", 0x10010)
EERD = _row("EERD", "8.2.3.2", 0x10014)
EEWR = _row("EEWR", "8.2.3.2", 0x10018)
FLA = _row("FLA", "8.2.3.2", 0x1001C)
EEMNGCTL = _row("EEMNGCTL", "8.2.3.2", 0x10110)
EEMNGDATA = _row("EEMNGDATA", "8.2.3.2", 0x10114)
FLMNGCTL = _row("FLMNGCTL", "8.2.3.2", 0x10118)
FLMNGDATA = _row("FLMNGDATA", "8.2.3.2", 0x1011C)
FLMNGCNT = _row("FLMNGCNT", "8.2.3.2", 0x10120)
FLOP = _row("FLOP", "8.2.3.2", 0x1013C)
GRC = _row("GRC", "8.2.3.2", 0x10200)

# 8.2.3.3 Flow control
PFCTOP = _row("PFCTOP", "8.2.3.3", 0x03008)
FCTTV = _row("FCTTV", "8.2.3.3", 0x03200, count=4)
FCRTL = _row("FCRTL", "8.2.3.3", 0x03220, count=8)
FCRTH = _row("FCRTH", "8.2.3.3", 0x03260, count=8)
FCRTV = _row("FCRTV", "8.2.3.3", 0x032A0)
FCCFG = _row("FCCFG", "8.2.3.3", 0x03D00)
TFCS = _row("TFCS", "8.2.3.3", 0x0CE00)

# 8.2.3.4 PCIe
GCR = _row("GCR", "8.2.3.4", 0x11000)
GSCL_1 = _row("GSCL_1", "8.2.3.4", 0x11010)
GSCL_2 = _row("GSCL_2", "8.2.3.4", 0x11014)
GSCL_5_8 = _row("GSCL_5_8", "8.2.3.4", 0x11030, count=4)
GSCN = _row("GSCN", "8.2.3.4", 0x11020, count=4)
GCR_EXT = _row("GCR_EXT", "8.2.3.4", 0x11050)
FACTPS = _row("FACTPS", "8.2.3.4", 0x10150)
PCIEPHYADR = _row("PCIEPHYADR", "8.2.3.4", 0x11040)
PCIEPHYDAT = _row("PCIEPHYDAT", "8.2.3.4", 0x11044)
SWSM = _row("SWSM", "8.2.3.4", 0x10140)
FWSM = _row("FWSM", "8.2.3.4", 0x10148)
SW_FW_SYNC = _row("SW_FW_SYNC", "8.2.3.4", 0x10160)
CIAA = _row("CIAA", "8.2.3.4", 0x11088)
CIAD = _row("CIAD", "8.2.3.4", 0x1108C)
PICAUSE = _row("PICAUSE", "8.2.3.4", 0x110B0)
PIENA = _row("PIENA", "8.2.3.4", 0x110B8)

# 8.2.3.5 Interrupt
EICR = _row("EICR", "8.2.3.5", 0x00800)
EICS = _row("EICS", "8.2.3.5", 0x00808)
EIAC = _row("EIAC", "8.2.3.5", 0x00810)
EIMS = _row("EIMS", "8.2.3.5", 0x00880)
EIMC = _row("EIMC", "8.2.3.5", 0x00888)
EIAM = _row("EIAM", "8.2.3.5", 0x00890)
EITRSEL = _row("EITRSEL", "8.2.3.5", 0x00894)
GPIE = _row("GPIE", "8.2.3.5", 0x00898)
EITR = Register("EITR", "8.2.3.5", ((0x00820, 4, 24), (0x12300, 4, 105)))
_ROWS.append(EITR)
IVAR = _row("IVAR", "8.2.3.5", 0x00900, count=64)
IVAR_MISC = _row("IVAR_MISC", "8.2.3.5", 0x00A00)
EICS_EX = _row("EICS_EX", "8.2.3.5", 0x00A90, count=2)
EIMS_EX = _row("EIMS_EX", "8.2.3.5", 0x00AA0, count=2)
EIMC_EX = _row("EIMC_EX", "8.2.3.5", 0x00AB0, count=2)
EIAM_EX = _row("EIAM_EX", "8.2.3.5", 0x00AD0, count=2)
PBACL = Register("PBACL", "8.2.3.6", ((0x11068, 4, 1), (0x110C4, 4, 7)))
_ROWS.append(PBACL)

# 8.2.3.7 Receive
RXCSUM = _row("RXCSUM", "8.2.3.7", 0x05000)
RFCTL = _row("RFCTL", "8.2.3.7", 0x05008)
FCTRL = _row("FCTRL", "8.2.3.7", 0x05080)
VLNCTRL = _row("VLNCTRL", "8.2.3.7", 0x05088)
MCSTCTRL = _row("MCSTCTRL", "8.2.3.7", 0x05090)
ETQF = _row("ETQF", "8.2.3.7", 0x05128, count=8)
VMTXSW = _row("VMTXSW", "8.2.3.7", 0x05180, count=2)
VT_CTL = _row("VT_CTL", "8.2.3.7", 0x051B0)
VFRE = _row("VFRE", "8.2.3.7", 0x051E0, count=2)
MTA = _row("MTA", "8.2.3.7", 0x05200, count=128)
# The first 16 receive addresses also stand where the 82598 had them (0x5400).
RAL = _row("RAL", "8.2.3.7", 0x0A200, stride=8, count=128)
RAH = _row("RAH", "8.2.3.7", 0x0A204, stride=8, count=128)
RAL_82598 = _row("RAL_82598", "8.2.3.7", 0x05400, stride=8, count=16)
RAH_82598 = _row("RAH_82598", "8.2.3.7", 0x05404, stride=8, count=16)
PSRTYPE_82598 = _row("PSRTYPE_82598", "8.2.3.7", 0x05480, count=16)
PSRTYPE = _row("PSRTYPE", "8.2.3.7", 0x0EA00, count=64)
MRQC = _row("MRQC", "8.2.3.7", 0x05818)
RETA = _row("RETA", "8.2.3.7", 0x05C00, count=32)
RSSRK = _row("RSSRK", "8.2.3.7", 0x05C80, count=10)
VFTA = _row("VFTA", "8.2.3.7", 0x0A000, count=128)
MPSAR = _row("MPSAR", "8.2.3.7", 0x0A600, count=256)
SAQF = _row("SAQF", "8.2.3.7", 0x0E000, count=128)
DAQF = _row("DAQF", "8.2.3.7", 0x0E200, count=128)
SDPQF = _row("SDPQF", "8.2.3.7", 0x0E400, count=128)
FTQF = _row("FTQF", "8.2.3.7", 0x0E600, count=128)
L34TIMIR = _row("L34TIMIR", "8.2.3.7", 0x0E800, count=128)
ETQS = _row("ETQS", "8.2.3.7", 0x0EC00, count=8)
SYNQF = _row("SYNQF", "8.2.3.7", 0x0EC30)
RQTC = _row("RQTC", "8.2.3.7", 0x0EC70)
FDIRCTRL = _row("FDIRCTRL", "8.2.3.7", 0x0EE00)
FDIRHKEY = _row("FDIRHKEY", "8.2.3.7", 0x0EE68)
FDIRSKEY = _row("FDIRSKEY", "8.2.3.7", 0x0EE6C)
FDIRFREE = _row("FDIRFREE", "8.2.3.7", 0x0EE38)
FDIRLEN = _row("FDIRLEN", "8.2.3.7", 0x0EE4C)
FDIRUSTAT = _row("FDIRUSTAT", "8.2.3.7", 0x0EE50)
FDIRFSTAT = _row("FDIRFSTAT", "8.2.3.7", 0x0EE54)
FDIRMATCH = _row("FDIRMATCH", "8.2.3.7", 0x0EE58)
FDIRMISS = _row("FDIRMISS", "8.2.3.7", 0x0EE5C)
FDIRCMD = _row("FDIRCMD", "8.2.3.7", 0x0EE2C)
VMOLR = _row("VMOLR", "8.2.3.7", 0x0F000, count=64)
VLVF = _row("VLVF", "8.2.3.7", 0x0F100, count=64)
VLVFB = _row("VLVFB", "8.2.3.7", 0x0F200, count=128)
UTA = _row("UTA", "8.2.3.7", 0x0F400, count=128)

# 8.2.3.8 Receive DMA
RDBAL = _row("RDBAL", "8.2.3.8", 0x01000, stride=0x40, count=64, high=0x0D000)
RDBAH = _row("RDBAH", "8.2.3.8", 0x01004, stride=0x40, count=64, high=0x0D004)
RDLEN = _row("RDLEN", "8.2.3.8", 0x01008, stride=0x40, count=64, high=0x0D008)
DCA_RXCTRL = _row("DCA_RXCTRL", "8.2.3.11", 0x0100C, stride=0x40, count=64, high=0x0D00C)
RDH = _row("RDH", "8.2.3.8", 0x01010, stride=0x40, count=64, high=0x0D010)
SRRCTL = _row("SRRCTL", "8.2.3.8", 0x01014, stride=0x40, count=64, high=0x0D014)
RDT = _row("RDT", "8.2.3.8", 0x01018, stride=0x40, count=64, high=0x0D018)
RXDCTL = _row("RXDCTL", "8.2.3.8", 0x01028, stride=0x40, count=64, high=0x0D028)
RSCCTL = _row("RSCCTL", "8.2.3.8", 0x0102C, stride=0x40, count=64, high=0x0D02C)
QPRC = _row("QPRC", "8.2.3.23", 0x01030, stride=0x40, count=16)
QBRC_L = _row("QBRC_L", "8.2.3.23", 0x01034, stride=0x40, count=16)
QBRC_H = _row("QBRC_H", "8.2.3.23", 0x01038, stride=0x40, count=16)
# SRRCTL and DCA_RXCTRL of queues 0-15 also stand where the 82598 had them.
SRRCTL_82598 = _row("SRRCTL_82598", "8.2.3.8", 0x02100, count=16)
DCA_RXCTRL_82598 = _row("DCA_RXCTRL_82598", "8.2.3.11", 0x02200, count=16)
RDRXCTL = _row("RDRXCTL", "8.2.3.8", 0x02F00)
RXPBSIZE = _row("RXPBSIZE", "8.2.3.8", 0x03C00, count=8)
RXCTRL = _row("RXCTRL", "8.2.3.8", 0x03000)
RXMEMWRAP = _row("RXMEMWRAP", "8.2.3.8", 0x03190)
RSCDBU = _row("RSCDBU", "8.2.3.8", 0x03028)
DROPEN = _row("DROPEN", "8.2.3.8", 0x03D04)

# 8.2.3.9 Transmit
DTXMXSZRQ = _row("DTXMXSZRQ", "8.2.3.9", 0x08100)
DMATXCTL = _row("DMATXCTL", "8.2.3.9", 0x04A80)
DTXTCPFLGL = _row("DTXTCPFLGL", "8.2.3.9", 0x04A88)
DTXTCPFLGH = _row("DTXTCPFLGH", "8.2.3.9", 0x04A8C)
TDBAL = _row("TDBAL", "8.2.3.9", 0x06000, stride=0x40, count=128)
TDBAH = _row("TDBAH", "8.2.3.9", 0x06004, stride=0x40, count=128)
TDLEN = _row("TDLEN", "8.2.3.9", 0x06008, stride=0x40, count=128)
DCA_TXCTRL = _row("DCA_TXCTRL", "8.2.3.11", 0x0600C, stride=0x40, count=128)
TDH = _row("TDH", "8.2.3.9", 0x06010, stride=0x40, count=128)
TDT = _row("TDT", "8.2.3.9", 0x06018, stride=0x40, count=128)
TXDCTL = _row("TXDCTL", "8.2.3.9", 0x06028, stride=0x40, count=128)
QPTC = _row("QPTC", "8.2.3.23", 0x06030, stride=0x40, count=16)  # the 82598's position of QPTC
TDWBAL = _row("TDWBAL", "8.2.3.9", 0x06038, stride=0x40, count=128)
TDWBAH = _row("TDWBAH", "8.2.3.9", 0x0603C, stride=0x40, count=128)
TXPBSIZE = _row("TXPBSIZE", "8.2.3.9", 0x0CC00, count=8)
TXPBTHRESH = _row("TXPBTHRESH", "8.2.3.9", 0x04950, count=8)
MTQC = _row("MTQC", "8.2.3.9", 0x08120)
VMVIR = _row("VMVIR", "8.2.3.9", 0x08000, count=64)
VFTE = _row("VFTE", "8.2.3.9", 0x08110, count=2)

# 8.2.3.10 DCB
RTRPCS = _row("RTRPCS", "8.2.3.10", 0x02430)
RTRPT4C = _row("RTRPT4C", "8.2.3.10", 0x02140, count=8)
RTRPT4S = _row("RTRPT4S", "8.2.3.10", 0x02160, count=8)
RTTDCS = _row("RTTDCS", "8.2.3.10", 0x04900)
RTTDQSEL = _row("RTTDQSEL", "8.2.3.10", 0x04904)
RTTDT1C = _row("RTTDT1C", "8.2.3.10", 0x04908)
RTTDT1S = _row("RTTDT1S", "8.2.3.10", 0x0490C)
RTTDT2C = _row("RTTDT2C", "8.2.3.10", 0x04910, count=8)
RTTDT2S = _row("RTTDT2S", "8.2.3.10", 0x04930, count=8)
RTTBCNRM = _row("RTTBCNRM", "8.2.3.10", 0x04980)
RTTBCNRC = _row("RTTBCNRC", "8.2.3.10", 0x04984)
RTTPCS = _row("RTTPCS", "8.2.3.10", 0x0CD00)
RTTPT2C = _row("RTTPT2C", "8.2.3.10", 0x0CD20, count=8)
RTTPT2S = _row("RTTPT2S", "8.2.3.10", 0x0CD40, count=8)
RTRUP2TC = _row("RTRUP2TC", "8.2.3.10", 0x03020)
RTTUP2TC = _row("RTTUP2TC", "8.2.3.10", 0x0C800)

# 8.2.3.11 DCA
DCA_ID = _row("DCA_ID", "8.2.3.11", 0x11070)
DCA_CTRL = _row("DCA_CTRL", "8.2.3.11", 0x11074)

# 8.2.3.12 Security
SECTXCTRL = _row("SECTXCTRL", "8.2.3.12", 0x08800)
SECTXSTAT = _row("SECTXSTAT", "8.2.3.12", 0x08804)
SECTXBUFFAF = _row("SECTXBUFFAF", "8.2.3.12", 0x08808)
SECTXMINIFG = _row("SECTXMINIFG", "8.2.3.12", 0x08810)
SECRXCTRL = _row("SECRXCTRL", "8.2.3.12", 0x08D00)
SECRXSTAT = _row("SECRXSTAT", "8.2.3.12", 0x08D04)

# 8.2.3.21 PF mailbox
PFMAILBOX = _row("PFMAILBOX", "8.2.3.21", 0x04B00, count=64)

# 8.2.3.22 MAC
PCS1GCFIG = _row("PCS1GCFIG", "8.2.3.22", 0x04200)
PCS1GLCTL = _row("PCS1GLCTL", "8.2.3.22", 0x04208)
PCS1GLSTA = _row("PCS1GLSTA", "8.2.3.22", 0x0420C)
PCS1GANA = _row("PCS1GANA", "8.2.3.22", 0x04218)
PCS1GANLP = _row("PCS1GANLP", "8.2.3.22", 0x0421C)
HLREG0 = _row("HLREG0", "8.2.3.22", 0x04240)
HLREG1 = _row("HLREG1", "8.2.3.22", 0x04244)
PAP = _row("PAP", "8.2.3.22", 0x04248)
MSCA = _row("MSCA", "8.2.3.22", 0x0425C)
MSRWD = _row("MSRWD", "8.2.3.22", 0x04260)
MAXFRS = _row("MAXFRS", "8.2.3.22", 0x04268)
PCSS1 = _row("PCSS1", "8.2.3.22", 0x04288)
PCSS2 = _row("PCSS2", "8.2.3.22", 0x0428C)
XPCSS = _row("XPCSS", "8.2.3.22", 0x04290)
SERDESC = _row("SERDESC", "8.2.3.22", 0x04298)
MACS = _row("MACS", "8.2.3.22", 0x0429C)
AUTOC = _row("AUTOC", "8.2.3.22", 0x042A0)
LINKS = _row("LINKS", "8.2.3.22", 0x042A4)
AUTOC2 = _row("AUTOC2", "8.2.3.22", 0x042A8)
ANLP1 = _row("ANLP1", "8.2.3.22", 0x042B0)
ANLP2 = _row("ANLP2", "8.2.3.22", 0x042B4)
MACC = _row("MACC", "8.2.3.22", 0x04330)
LINKS2 = _row("LINKS2", "8.2.3.22", 0x04324)
MFLCN = _row("MFLCN", "8.2.3.22", 0x04294)
CORECTL = _row("CORECTL", "8.2.3.22", 0x014F00)

# 8.2.3.23 Statistics
CRCERRS = _row("CRCERRS", "8.2.3.23", 0x04000)
ILLERRC = _row("ILLERRC", "8.2.3.23", 0x04004)
ERRBC = _row("ERRBC", "8.2.3.23", 0x04008)
MSPDC = _row("MSPDC", "8.2.3.23", 0x04010)
RXMPC = _row("RXMPC", "8.2.3.23", 0x03FA0, count=8)
MLFC = _row("MLFC", "8.2.3.23", 0x04034)
MRFC = _row("MRFC", "8.2.3.23", 0x04038)
RLEC = _row("RLEC", "8.2.3.23", 0x04040)
LXONTXC = _row("LXONTXC", "8.2.3.23", 0x03F60)
LXOFFTXC = _row("LXOFFTXC", "8.2.3.23", 0x03F68)
LXONRXCNT = _row("LXONRXCNT", "8.2.3.23", 0x041A4)
LXOFFRXCNT = _row("LXOFFRXCNT", "8.2.3.23", 0x041A8)
PXONTXC = _row("PXONTXC", "8.2.3.23", 0x03F00, count=8)
PXOFFTXC = _row("PXOFFTXC", "8.2.3.23", 0x03F20, count=8)
PXONRXCNT = _row("PXONRXCNT", "8.2.3.23", 0x04140, count=8)
PXOFFRXCNT = _row("PXOFFRXCNT", "8.2.3.23", 0x04160, count=8)
PXON2OFFCNT = _row("PXON2OFFCNT", "8.2.3.23", 0x03240, count=8)
PRC64 = _row("PRC64", "8.2.3.23", 0x0405C)
PRC127 = _row("PRC127", "8.2.3.23", 0x04060)
PRC255 = _row("PRC255", "8.2.3.23", 0x04064)
PRC511 = _row("PRC511", "8.2.3.23", 0x04068)
PRC1023 = _row("PRC1023", "8.2.3.23", 0x0406C)
PRC1522 = _row("PRC1522", "8.2.3.23", 0x04070)
GPRC = _row("GPRC", "8.2.3.23", 0x04074)
BPRC = _row("BPRC", "8.2.3.23", 0x04078)
MPRC = _row("MPRC", "8.2.3.23", 0x0407C)
GPTC = _row("GPTC", "8.2.3.23", 0x04080)
GORCL = _row("GORCL", "8.2.3.23", 0x04088)
GORCH = _row("GORCH", "8.2.3.23", 0x0408C)
GOTCL = _row("GOTCL", "8.2.3.23", 0x04090)
GOTCH = _row("GOTCH", "8.2.3.23", 0x04094)
RNBC = _row("RNBC", "8.2.3.23", 0x03FC0, count=8)
RUC = _row("RUC", "8.2.3.23", 0x040A4)
RFC = _row("RFC", "8.2.3.23", 0x040A8)
ROC = _row("ROC", "8.2.3.23", 0x040AC)
RJC = _row("RJC", "8.2.3.23", 0x040B0)
MNGPRC = _row("MNGPRC", "8.2.3.23", 0x040B4)
MNGPDC = _row("MNGPDC", "8.2.3.23", 0x040B8)
MNGPTC = _row("MNGPTC", "8.2.3.23", 0x0CF90)
TORL = _row("TORL", "8.2.3.23", 0x040C0)
TORH = _row("TORH", "8.2.3.23", 0x040C4)
TPR = _row("TPR", "8.2.3.23", 0x040D0)
TPT = _row("TPT", "8.2.3.23", 0x040D4)
PTC64 = _row("PTC64", "8.2.3.23", 0x040D8)
PTC127 = _row("PTC127", "8.2.3.23", 0x040DC)
PTC255 = _row("PTC255", "8.2.3.23", 0x040E0)
PTC511 = _row("PTC511", "8.2.3.23", 0x040E4)
PTC1023 = _row("PTC1023", "8.2.3.23", 0x040E8)
PTC1522 = _row("PTC1522", "8.2.3.23", 0x040EC)
MPTC = _row("MPTC", "8.2.3.23", 0x040F0)
BPTC = _row("BPTC", "8.2.3.23", 0x040F4)
XEC = _row("XEC", "8.2.3.23", 0x04120)
RQSMR = _row("RQSMR", "8.2.3.23", 0x02300, count=32)
RXDSTATCTRL = _row("RXDSTATCTRL", "8.2.3.23", 0x02F40)
RXDGPC = _row("RXDGPC", "8.2.3.23", 0x02F50)
RXDGBCL = _row("RXDGBCL", "8.2.3.23", 0x02F54)
RXDGBCH = _row("RXDGBCH", "8.2.3.23", 0x02F58)
TQSM = _row("TQSM", "8.2.3.23", 0x08600, count=32)
TXDGPC = _row("TXDGPC", "8.2.3.23", 0x087A0)
TXDGBCL = _row("TXDGBCL", "8.2.3.23", 0x087A4)
TXDGBCH = _row("TXDGBCH", "8.2.3.23", 0x087A8)
QPRDC = _row("QPRDC", "8.2.3.23", 0x01430, stride=0x40, count=16)
QPTC_82599 = _row("QPTC_82599", "8.2.3.23", 0x08680, count=16)
QBTC_L = _row("QBTC_L", "8.2.3.23", 0x08700, stride=8, count=16)
QBTC_H = _row("QBTC_H", "8.2.3.23", 0x08704, stride=8, count=16)
SSVPC = _row("SSVPC", "8.2.3.23", 0x08780)
FCCRC = _row("FCCRC", "8.2.3.23", 0x05118)
FCOERPDC = _row("FCOERPDC", "8.2.3.23", 0x0241C)
FCLAST = _row("FCLAST", "8.2.3.23", 0x02424)
FCOEPRC = _row("FCOEPRC", "8.2.3.23", 0x02428)
FCOEDWRC = _row("FCOEDWRC", "8.2.3.23", 0x0242C)
FCOEPTC = _row("FCOEPTC", "8.2.3.23", 0x08784)
FCOEDWTC = _row("FCOEDWTC", "8.2.3.23", 0x08788)

# 8.2.3.24 Wake up
WUC = _row("WUC", "8.2.3.24", 0x05800)
WUFC = _row("WUFC", "8.2.3.24", 0x05808)
WUS = _row("WUS", "8.2.3.24", 0x05810)
IPAV = _row("IPAV", "8.2.3.24", 0x05838)

# 8.2.3.25 Management, time synchronisation
MANC = _row("MANC", "8.2.3.25", 0x05820)
HICR = _row("HICR", "8.2.3.25", 0x15F00)
TSYNCRXCTL = _row("TSYNCRXCTL", "8.2.3.26", 0x05188)
TSYNCTXCTL = _row("TSYNCTXCTL", "8.2.3.26", 0x08C00)
SYSTIML = _row("SYSTIML", "8.2.3.26", 0x08C0C)
SYSTIMH = _row("SYSTIMH", "8.2.3.26", 0x08C10)
TIMINCA = _row("TIMINCA", "8.2.3.26", 0x08C14)

ALL: tuple[Register, ...] = tuple(_ROWS)
BY_NAME: dict[str, Register] = {row.name: row for row in ALL}
