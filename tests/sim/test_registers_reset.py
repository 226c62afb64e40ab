"""Reset, EEPROM, semaphores, link and SFP+ module."""

from collections.abc import Iterator

import pytest

from ixy_vfio.hw import Register, ixgbe
from ixy_vfio.sim import eeprom, sfp
from tests.sim.nic_rig import Rig

RESET, LINK_RESET, MASTER_DISABLE = 0x0400_0000, 0x8, 0x4


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.close()


def eerd(rig: Rig, word: int) -> int:
    rig.write(ixgbe.EERD, word << 2 | 1)
    value = rig.read(ixgbe.EERD)
    assert value & 0xFFFF == word << 2 | 2  # done
    return value >> 16


def test_reset_runs_through_its_stages(rig: Rig) -> None:
    rig.write(ixgbe.MAXFRS, 0x2400_0000)
    rig.write(ixgbe.CTRL, RESET)
    assert rig.read(ixgbe.CTRL) == RESET
    assert rig.read(ixgbe.EEC) & 0x200 == 0
    rig.wait(0.0002)
    assert rig.read(ixgbe.CTRL) == 0
    assert rig.read(ixgbe.RDRXCTL) == 0x0010_0000
    rig.wait(0.0020)
    assert rig.read(ixgbe.EEC) & 0x300 == 0x300
    assert rig.read(ixgbe.RDRXCTL) == 0x0010_0008
    assert rig.read(ixgbe.MAXFRS) == 0x05EE_0000
    assert rig.read(ixgbe.RAL) == 0x9059_8202
    assert rig.read(ixgbe.RAH) == 0x8000_0000
    assert rig.port.resets == 2
    assert rig.violations == []


def test_software_reset_keeps_the_link_and_link_reset_does_not(rig: Rig) -> None:
    rig.read(ixgbe.LINKS)
    assert rig.read(ixgbe.LINKS) == 0x7000_0080
    rig.write(ixgbe.CTRL, RESET)
    rig.wait(0.020)
    assert rig.read(ixgbe.LINKS) == 0x7000_0080  # never down
    rig.write(ixgbe.AUTOC, 0xC09C_2004)
    rig.write(ixgbe.CTRL, RESET)
    rig.wait(0.020)
    assert rig.read(ixgbe.AUTOC) == 0xC09C_2004
    rig.write(ixgbe.CTRL, LINK_RESET)
    rig.wait(0.020)
    assert rig.read(ixgbe.AUTOC) == 0xC09C_6004
    assert rig.read(ixgbe.LINKS) & 0x4000_0000


def test_master_disable_stops_dma_and_shows_in_status(rig: Rig) -> None:
    rig.start()
    assert rig.port.bus_master is True
    rig.write(ixgbe.CTRL, MASTER_DISABLE)
    assert rig.port.bus_master is False
    assert rig.read(ixgbe.STATUS) == 0
    rig.write(ixgbe.CTRL, RESET)
    assert rig.port.bus_master is True
    assert rig.read(ixgbe.STATUS) == 0x0008_0000


def test_bus_master_follows_the_command_register_and_the_power_state(rig: Rig) -> None:
    rig.start()
    rig.config_write(0x44, 2, 0x0003)
    assert rig.port.bus_master is False
    rig.config_write(0x44, 2, 0x0000)
    assert rig.port.bus_master is True
    rig.config_write(4, 2, 0x0002)
    assert rig.port.bus_master is False


def test_function_level_reset_by_configuration_write(rig: Rig) -> None:
    rig.start()
    rig.config_write(0x10, 4, 0xE000_0000)
    rig.write(ixgbe.MAXFRS, 0x2400_0000)
    rig.config_write(0xA8, 2, 0xA810)
    assert rig.nic.config.read(4, 2) == bytes(2)
    assert rig.nic.config.read(0x10, 4) == b"\x0c\0\0\0"
    assert rig.nic.config.read(0xA8, 2) == b"\x10\x28"
    assert rig.port.bus_master is False
    assert rig.read(ixgbe.MAXFRS) == 0x05EE_0000


def test_device_reset_keeps_configuration_space(rig: Rig) -> None:
    rig.start()
    rig.nic.full_reset()
    assert rig.nic.config.read(4, 2) == b"\x06\0"
    assert rig.port.bus_master is True


@pytest.mark.parametrize(("offset", "size", "mask"), [(0x10, 8, (1 << 64) - 0x80000), (0x20, 8, (1 << 64) - 0x4000)])
def test_bars_are_sized_by_writing_ones(rig: Rig, offset: int, size: int, mask: int) -> None:
    rig.config_write(offset, size, (1 << 64) - 1)
    assert int.from_bytes(rig.nic.config.read(offset, size), "little") == mask | 0xC


def test_capabilities_stand_where_the_82599_has_them(rig: Rig) -> None:
    config = rig.nic.config
    found, at = [], config.read(0x34, 1)[0]
    while at:
        found.append((at, config.read(at, 1)[0]))
        at = config.read(at + 1, 1)[0]
    assert found == [(0x40, 0x01), (0x50, 0x05), (0x70, 0x11), (0xA0, 0x10), (0xE0, 0x03)]
    assert config.word(0x72) & 0x7FF == 63
    assert int.from_bytes(config.read(0x74, 8), "little") == 0x0000_2004_0000_0004
    assert int.from_bytes(config.read(0xA4, 4), "little") >> 28 & 1 == 1  # function level reset
    assert config.read(0x0E, 1) == b"\0"  # single function


def test_the_checksum_of_the_eeprom_takes_in_what_pointers_point_to(rig: Rig) -> None:
    total = sum(eerd(rig, word) for word in range(0x3F))
    for pointer in range(3, 0x0F):
        at = eerd(rig, pointer)
        if at in (0, 0xFFFF):
            continue
        length = eerd(rig, at)
        if length in (0, 0xFFFF):
            continue
        total += sum(eerd(rig, word) for word in range(at + 1, at + 1 + length))
    assert (total + eerd(rig, 0x3F)) & 0xFFFF == 0xBABA
    assert rig.violations == []


def test_eeprom_holds_what_a_driver_looks_for(rig: Rig) -> None:
    core = eerd(rig, 0x09)
    assert [eerd(rig, core + 1 + i) for i in range(3)] == [0x8202, 0x9059, 0x0000]
    assert eerd(rig, 0x15) == 0xFAFA
    block = eerd(rig, 0x16)
    words = [eerd(rig, block + 1 + i) for i in range(eerd(rig, block) - 1)]
    assert b"".join(word.to_bytes(2, "big") for word in words) == eeprom.PART_NUMBER.encode()
    assert eerd(rig, eerd(rig, eerd(rig, 0x0F) + 4) + 7) == 6  # firmware version


@pytest.mark.parametrize("row", [ixgbe.EEWR, ixgbe.FLA, ixgbe.FLOP], ids=lambda row: row.name)
def test_attempts_to_write_eeprom_or_flash_are_violations(rig: Rig, row: Register) -> None:
    rig.write(row, 0x1234_0005)
    assert rig.violations == [f"port 0: {row.name}: write of 0x12340005 would change EEPROM or flash"]


def test_eec_never_grants_flash_writes(rig: Rig) -> None:
    rig.write(ixgbe.EEC, rig.read(ixgbe.EEC) & ~0x30 | 0x20)
    assert rig.read(ixgbe.EEC) & 0x30 == 0x10
    assert len(rig.violations) == 1
    rig.write(ixgbe.EEC, rig.read(ixgbe.EEC) | 0x40)
    assert rig.read(ixgbe.EEC) & 0xC0 == 0xC0  # requested, granted


def test_reading_the_software_semaphore_takes_it(rig: Rig) -> None:
    assert rig.read(ixgbe.SWSM) & 1 == 0
    assert rig.read(ixgbe.SWSM) & 1 == 1
    rig.write(ixgbe.SWSM, 0x3)
    assert rig.read(ixgbe.SWSM) == 0x3
    rig.write(ixgbe.SWSM, 0)
    assert rig.read(ixgbe.SWSM) == 0


def test_link_needs_a_cable_whose_other_end_lives(rig: Rig) -> None:
    assert rig.port.link_up is True
    rig.port.carrier = False
    rig.wait(0.002)
    assert rig.port.link_up is False
    assert rig.read(ixgbe.LINKS) == 0
    rig.port.carrier = True
    rig.wait(0.020)
    assert rig.read(ixgbe.LINKS) == 0x7000_0000  # up, but it was down since the last read
    assert rig.read(ixgbe.LINKS) == 0x7000_0080


def test_autoneg_restart_takes_the_link_down_for_a_while(rig: Rig) -> None:
    rig.write(ixgbe.AUTOC, 0xC09C_7004)
    assert rig.read(ixgbe.AUTOC) == 0xC09C_6004  # the bit clears itself
    assert rig.read(ixgbe.LINKS) == 0
    rig.wait(0.003)
    assert rig.read(ixgbe.LINKS) == 0
    rig.wait(0.010)
    assert rig.read(ixgbe.LINKS) & 0x4000_0000


@pytest.mark.parametrize("mode", [0, 1, 2, 4, 5, 6, 7])
def test_only_10g_serial_brings_a_link_on_an_sfp_card(rig: Rig, mode: int) -> None:
    rig.write(ixgbe.AUTOC, 0xC09C_1004 | mode << 13)
    rig.wait(0.020)
    assert rig.port.link_up is False
    rig.write(ixgbe.AUTOC, 0xC09C_1005 | mode << 13)  # force link up: what a MAC loopback test does
    rig.wait(0.020)
    assert rig.port.link_up is True


def test_laser_off_takes_the_link_down(rig: Rig) -> None:
    rig.write(ixgbe.ESDP, rig.read(ixgbe.ESDP) & ~0x4 | 0x0808)
    rig.wait(0.002)
    assert (rig.port.link_up, rig.nic.shines) == (False, False)
    assert rig.read(ixgbe.ESDP) & 0x4  # the module is there


def test_mdio_finds_nobody(rig: Rig) -> None:
    rig.write(ixgbe.MSCA, 0x4C00_0000)
    assert rig.read(ixgbe.MSCA) & 0x4000_0000 == 0
    assert rig.read(ixgbe.MSRWD) >> 16 == 0xFFFF


class TwoWireMaster:
    """Bit-bangs I2CCTL as a driver does."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.lines(1, 1)

    def lines(self, clock: int, data: int) -> int:
        held = self.rig.nic.bar.get(ixgbe.I2CCTL)
        self.rig.write(ixgbe.I2CCTL, held & ~0xA | clock << 1 | data << 3)
        return self.rig.read(ixgbe.I2CCTL) >> 2 & 1

    def start(self) -> None:
        self.lines(0, 1)
        self.lines(1, 1)
        self.lines(1, 0)
        self.lines(0, 0)

    def stop(self) -> None:
        self.lines(0, 0)
        self.lines(1, 0)
        self.lines(1, 1)

    def bit(self, data: int) -> int:
        self.lines(0, data)
        level = self.lines(1, data)
        self.lines(0, data)
        return level

    def send(self, byte: int) -> bool:
        for i in range(7, -1, -1):
            self.bit(byte >> i & 1)
        return self.bit(1) == 0  # acknowledged

    def receive(self, more: bool) -> int:
        byte = 0
        for _ in range(8):
            byte = byte << 1 | self.bit(1)
        self.bit(0 if more else 1)
        return byte


def test_the_module_is_read_over_i2c(rig: Rig) -> None:
    bus = TwoWireMaster(rig)
    for address in (0, 8, 255):
        bus.start()
        assert bus.send(0xA0)
        assert bus.send(address)
        bus.start()
        assert bus.send(0xA1)
        assert bus.receive(more=False) == sfp.module_memory()[address]
        bus.stop()
    assert (sfp.module_memory()[0], sfp.module_memory()[8]) == (0x03, 0x04)  # SFP+, passive copper
    assert rig.violations == []


def test_sequential_reads_and_a_wrong_address(rig: Rig) -> None:
    bus = TwoWireMaster(rig)
    bus.start()
    assert bus.send(0xA0)
    assert bus.send(20)
    bus.start()
    assert bus.send(0xA1)
    assert bytes(bus.receive(more=i < 8) for i in range(9)) == b"SIMULATED"
    bus.stop()
    bus.start()
    assert not bus.send(0xF0)  # no thermal sensor
    bus.stop()


def test_mac_loopback_turns_the_port_on_itself(rig: Rig) -> None:
    rig.write(ixgbe.HLREG0, rig.read(ixgbe.HLREG0) | 0x8000)
    assert (rig.port.loopback, rig.nic.shines) == (True, False)
    rig.write(ixgbe.HLREG0, rig.read(ixgbe.HLREG0) & ~0x8000)
    assert (rig.port.loopback, rig.nic.shines) == (False, True)
    rig.write(ixgbe.HLREG0, rig.read(ixgbe.HLREG0) | 0x8000)
    rig.write(ixgbe.CTRL, RESET)
    assert rig.port.loopback is False
