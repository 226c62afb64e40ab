"""The MAC's link: from AUTOC and the light on the cable to LINKS, and the pins and the MDIO bus beside it.

82599 datasheet, sections 3.7 and 8.2.3.22. The board is an SFP+ card: 10 Gbit/s over SFI is the only way to a link.
"""

from collections.abc import Callable

from ixy_vfio.hw import ixgbe
from ixy_vfio.sim.bar0 import Bar0

AUTOC_EEPROM = 0xC09C_6004  # link mode 3: 10G serial
AUTOC2_EEPROM = 0x000A_0000  # serial PMA/PMD 2: SFI
AUTOC_FORCE_UP = 0x1
AUTOC_RESTART = 0x1000
AUTOC_MODE_SHIFT, MODE_10G_SERIAL = 13, 3
MODES_NEGOTIATED = (4, 6, 7)  # backplane modes with clause 73 autonegotiation
ANLP1_FIRST_STATE = 0x1_0000
AUTOC2_SERIAL_SHIFT, SERIAL_SFI = 16, 2
AUTOC2_LINK_DISABLE = 0x7000_0000
LINKS_UP, LINKS_STAYED_UP, LINKS_10G = 0x4000_0000, 0x80, 0x3000_0000
ESDP_MODULE_PRESENT = 0x04  # SDP2, an input
ESDP_LASER_OFF, ESDP_LASER_DIRECTION = 0x08, 0x0800  # SDP3
ESDP_RESET = 0x0000_0800  # SDP3 is an output, low
MSCA_COMMAND = 0x4000_0000
MSCA_READ = 0x0800_0000  # operation 2 or 3: read

SETTLE = 0.005  # seconds from signal and set-up to link; a real SFI link takes a few milliseconds, too


class Link:
    """The link of one port. `carrier` says whether the cable brings light; `changed` is told of every change."""

    def __init__(self, bar: Bar0, carrier: Callable[[], bool], changed: Callable[[bool], None]) -> None:
        self.up = False
        self.allowed = True  # False: cut from outside (control socket)
        self._bar = bar
        self._carrier = carrier
        self._changed = changed
        self._ready_at: float | None = None  # when the link comes up, if nothing changes
        self._restart = True
        self._fell = True  # LINKS.7 is latched low until read
        bar.on_write(ixgbe.AUTOC, self._write_autoc)
        bar.on_write(ixgbe.AUTOC2, lambda _, value: bar.set(ixgbe.AUTOC2, value))
        bar.on_read(ixgbe.LINKS, self._read_links)
        bar.on_read(ixgbe.ESDP, self._read_esdp)
        bar.on_write(ixgbe.MSCA, self._write_msca)

    def reset(self) -> None:
        """Set-up from the EEPROM; the link starts anew."""
        self._bar.set(ixgbe.AUTOC, AUTOC_EEPROM)
        self._bar.set(ixgbe.AUTOC2, AUTOC2_EEPROM)
        self._bar.set(ixgbe.ESDP, ESDP_RESET)
        self._restart = True

    @property
    def light(self) -> bool:
        """Whether this end sends: the laser is on and the serial interface runs."""
        bar = self._bar
        pins = bar.get(ixgbe.ESDP)
        laser = not (pins & ESDP_LASER_OFF and pins & ESDP_LASER_DIRECTION)
        serial = bar.get(ixgbe.AUTOC2)
        return (
            self.allowed
            and laser
            and bar.get(ixgbe.AUTOC) >> AUTOC_MODE_SHIFT & 7 == MODE_10G_SERIAL
            and serial >> AUTOC2_SERIAL_SHIFT & 3 == SERIAL_SFI
            and not serial & AUTOC2_LINK_DISABLE
        )

    def tick(self, now: float, ready: bool) -> float | None:
        """Advance to `now`; `ready`: the device is out of reset. Returns when it must be called again, if it must."""
        restart, self._restart = self._restart, False
        forced = bool(self._bar.get(ixgbe.AUTOC) & AUTOC_FORCE_UP)
        possible = ready and (forced or (self.light and self._carrier()))
        if not possible or restart:
            self._ready_at = None
            self._become(False)
        if not possible:
            return None
        if self.up:
            return None
        if self._ready_at is None:
            self._ready_at = now + SETTLE
        if now >= self._ready_at:
            self._become(True)
            return None
        return self._ready_at

    def _become(self, up: bool) -> None:
        if up == self.up:
            return
        self.up = up
        self._fell = self._fell or not up
        self._changed(up)

    def _write_autoc(self, _: int, value: int) -> None:
        if value & AUTOC_RESTART:
            self._restart = True
            self._become(False)
            # With nobody to negotiate with, the arbitration gets as far as its first state and stays there.
            negotiating = value >> AUTOC_MODE_SHIFT & 7 in MODES_NEGOTIATED
            self._bar.set(ixgbe.ANLP1, ANLP1_FIRST_STATE if negotiating else 0)
        self._bar.set(ixgbe.AUTOC, value & ~AUTOC_RESTART)

    def _read_links(self, _: int) -> int:
        stayed = not self._fell
        self._fell = not self.up
        if not self.up:
            return 0
        return LINKS_UP | LINKS_10G | (LINKS_STAYED_UP if stayed else 0)

    def _read_esdp(self, _: int) -> int:
        held = self._bar.get(ixgbe.ESDP)
        outputs = held >> 8 & 0xFF
        return held & ~0xFF | held & outputs | ESDP_MODULE_PRESENT & ~outputs

    def _write_msca(self, _: int, value: int) -> None:
        """MDIO: no PHY on the bus, so a read brings ones."""
        if value & MSCA_COMMAND and value & MSCA_READ:
            self._bar.set(ixgbe.MSRWD, self._bar.get(ixgbe.MSRWD) & 0xFFFF | 0xFFFF_0000)
        self._bar.set(ixgbe.MSCA, value & ~MSCA_COMMAND)
