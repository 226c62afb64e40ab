"""General control, EEPROM, PCIe and interrupts: 8.2.3.1 to 8.2.3.5."""

from ixy_vfio.core.registers import RC_W1C, RO, RW, W1S, WO, Register, bit, bits
from ixy_vfio.drivers.semaphore import swsm
from ixy_vfio.hw import ixgbe as hw

# --- 8.2.3.1 General control ---------------------------------------------------------------------------------------


class CTRL(Register, row=hw.CTRL, access=RW):
    """Device control."""

    master_disable: int = bit(2, "no new PCIe requests")
    lrst: int = bit(3, "link reset; clears itself")
    rst: int = bit(26, "software reset; clears itself")


class STATUS(Register, row=hw.STATUS, access=RO):
    """Device status."""

    lan_id: int = bits(2, 2, "which port of the device this is")
    link_up: int = bit(7, "link is up")
    num_vfs: int = bits(10, 8, "virtual functions")
    iov: int = bit(18, "virtual functions are enabled")
    master_enable: int = bit(19, "PCIe requests may be under way")


class CTRL_EXT(Register, row=hw.CTRL_EXT, access=RW):
    """Extended device control."""

    pfrstd: int = bit(14, "physical function reset is done")
    ns_dis: int = bit(16, "no-snoop disabled")
    ro_dis: int = bit(17, "relaxed ordering disabled")
    drv_load: int = bit(28, "a driver is loaded")


class ESDP(Register, row=hw.ESDP, access=RW):
    """Software-definable pins; on SFP+ boards pin 3 turns the laser off."""

    sdp2: int = bit(2, "data of pin 2 (SFP+: module present)")
    sdp3: int = bit(3, "data of pin 3 (SFP+: laser off)")
    sdp5: int = bit(5, "data of pin 5 (SFP+: rate select, 1 = 10 Gbit/s)")
    sdp3_dir: int = bit(11, "pin 3 is an output")
    sdp5_dir: int = bit(13, "pin 5 is an output")


# --- 8.2.3.2 EEPROM and flash --------------------------------------------------------------------------------------


class EEC(Register, row=hw.EEC, access=RW):
    """EEPROM control."""

    pres: int = bit(8, "EEPROM is present")
    ard: int = bit(9, "auto-read after reset is done")


class EERD(Register, row=hw.EERD, access=RW):
    """EEPROM read."""

    start: int = bit(0, "read a word")
    done: int = bit(1, "the word is there")
    addr: int = bits(2, 14, "word address")
    data: int = bits(16, 16, "the word")


class EEMNGCTL(Register, row=hw.EEMNGCTL, access=RW):
    """EEPROM control by manageability firmware."""

    cfg_done0: int = bit(18, "firmware has configured port 0")
    cfg_done1: int = bit(19, "firmware has configured port 1")


# --- 8.2.3.4 PCIe --------------------------------------------------------------------------------------------------


SWSM = swsm(hw.SWSM)


class FWSM(Register, row=hw.FWSM, access=RO):
    """Firmware semaphore."""

    fw_mode: int = bits(1, 3, "firmware mode")
    fw_valid: int = bit(15, "firmware has set the other bits")


class SW_FW_SYNC(Register, row=hw.SW_FW_SYNC, access=RW):
    """Who uses what: bits 0-4 are software's, 5-9 firmware's."""

    sw: int = bits(0, 5, "resources held by software: EEPROM, PHY 0, PHY 1, MAC registers, flash")
    fw: int = bits(5, 5, "resources held by firmware")


# --- 8.2.3.5 Interrupt ---------------------------------------------------------------------------------------------


class EICR(Register, row=hw.EICR, access=RC_W1C):
    """Interrupt causes. Never read here: reading it also clears what EIAC clears by itself."""

    rtxq: int = bits(0, 16, "queue causes")
    lsc: int = bit(20, "link status change")


class EICS(Register, row=hw.EICS, access=WO):
    """Sets interrupt causes."""

    lsc: int = bit(20, "link status change")


class EIAC(Register, row=hw.EIAC, access=RW):
    """Causes that clear themselves when their MSI-X message is sent."""

    rtxq: int = bits(0, 16, "queue causes")


class EIMS(Register, row=hw.EIMS, access=W1S):
    """Enables interrupts; a 0 disables nothing (EIMC does)."""

    rtxq: int = bits(0, 16, "queue causes")
    lsc: int = bit(20, "link status change")


class EIMC(Register, row=hw.EIMC, access=WO):
    """Disables interrupts."""

    causes: int = bits(0, 31, "all causes; bit 31 is reserved")


class EIAM(Register, row=hw.EIAM, access=RW):
    """Causes that mask themselves when their interrupt is sent."""

    causes: int = bits(0, 31, "all causes; bit 31 is reserved")


class GPIE(Register, row=hw.GPIE, access=RW):
    """General-purpose interrupt enable."""

    multiple_msix: int = bit(4, "MSI-X with several vectors")
    ocd: int = bit(5, "reading EICR clears only what is not a queue cause")
    eimen: int = bit(6, "a set cause raises its interrupt at once, even when throttled")
    eiame: int = bit(30, "EIAM acts when a message is sent")
    pba_support: int = bit(31, "pending bits are cleared when a message is sent")


class EITR(Register, row=hw.EITR, access=RW):
    """Interrupt throttling of one vector."""

    itr_interval: int = bits(3, 9, "shortest time between two interrupts, in units of 2 us (at 10 Gbit/s)")
    cnt_wdis: int = bit(31, "writing leaves the running counter as it is")


class IVAR(Register, row=hw.IVAR, access=RW):
    """Which vector serves receive and transmit of two queues: 2n and 2n + 1."""

    rx_even: int = bits(0, 6, "vector of receive queue 2n")
    rx_even_valid: int = bit(7)
    tx_even: int = bits(8, 6, "vector of transmit queue 2n")
    tx_even_valid: int = bit(15)
    rx_odd: int = bits(16, 6, "vector of receive queue 2n + 1")
    rx_odd_valid: int = bit(23)
    tx_odd: int = bits(24, 6, "vector of transmit queue 2n + 1")
    tx_odd_valid: int = bit(31)


class IVAR_MISC(Register, row=hw.IVAR_MISC, access=RW):
    """Which vectors serve the TCP timer and all other causes."""

    timer: int = bits(0, 7, "vector of the TCP timer")
    timer_valid: int = bit(7)
    other: int = bits(8, 7, "vector of the other causes")
    other_valid: int = bit(15)


class EIMS_EX(Register, row=hw.EIMS_EX, access=W1S):
    """Enables the interrupts of vectors 32n to 32n + 31."""

    vectors: int = bits(0, 32, "one bit a vector")


class EIMC_EX(Register, row=hw.EIMC_EX, access=WO):
    """Disables the interrupts of vectors 32n to 32n + 31."""

    vectors: int = bits(0, 32, "one bit a vector")
