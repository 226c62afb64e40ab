"""The link: bring it up, wait for it, say how it is. Datasheet section 4.6.4.

The copper PHYs of X540 and X550 negotiate by themselves, from the EEPROM's defaults: there is nothing to do here.
Backplane links are restarted as the EEPROM configured them. SFP+ is a serial 10 Gbit/s link (SFI); a module that
does not come up with it is tried at 1 Gbit/s.
"""

import time

from ixy_vfio.core.errors import LinkDown
from ixy_vfio.core.mmio import Mmio, polls, section
from ixy_vfio.drivers.contract import Link
from ixy_vfio.drivers.ixgbe.eeprom import Resource, held
from ixy_vfio.drivers.ixgbe.models import Media, Model
from ixy_vfio.drivers.ixgbe.regs.general import ESDP
from ixy_vfio.drivers.ixgbe.regs.mac import AUTOC, AUTOC2, LINKS, LinkMode, LinkSpeed

SFI = 2  # AUTOC2.10G_PMA_PMD_Serial
ATTEMPT = 2.0  # seconds until the link is restarted; empirical: SFP+ at 10 Gbit/s needs well below one
# How a link on SFP+ is tried, over and over: the second try at 10 Gbit/s is for modules that miss the first.
SFP_MODES = (LinkMode.SERIAL_10G, LinkMode.SERIAL_10G, LinkMode.AUTO_1G)

_SPEEDS = {LinkSpeed.M100: 100, LinkSpeed.G1: 1_000, LinkSpeed.G10: 10_000}
_SPEEDS_NON_STANDARD = {LinkSpeed.M100: 5_000, LinkSpeed.G10: 2_500}  # X550


@section("4.6.4")
def start(bar: Mmio, model: Model, mode: LinkMode = LinkMode.SERIAL_10G) -> None:
    """Tell the link to come up; `mode` is for SFP+ only. Does not wait."""
    if model.media is Media.COPPER:
        return
    if AUTOC2.read(bar).link_disable:
        AUTOC2.modify(bar, link_disable=0)
    if model.media is Media.SFP:
        # Pin 3 low turns the laser on, pin 5 selects the module's rate (X520 boards; as in Linux and DPDK).
        ESDP.modify(bar, sdp3=0, sdp5=int(mode is LinkMode.SERIAL_10G), sdp5_dir=1)
        AUTOC2.modify(bar, pma_10g_serial=SFI)
    with held(bar, Resource.MAC):  # link firmware (LESM) writes AUTOC, too
        autoc = AUTOC.read(bar)
        if model.media is Media.SFP:
            autoc = autoc.replace(lms=mode)
        autoc.replace(restart_an=1).write(bar)


@section("4.6.4")
def read(bar: Mmio) -> Link:
    """The link, now. LINKS latches a loss: the first read tells the past, the second the present."""
    LINKS.read(bar)
    links = LINKS.read(bar)
    if not links.link_up:
        return Link(up=False, speed=0)
    speeds = _SPEEDS_NON_STANDARD if links.speed_non_standard and links.speed in _SPEEDS_NON_STANDARD else _SPEEDS
    return Link(up=True, speed=speeds.get(LinkSpeed(links.speed), 0) if links.speed else 0)


class Retry:
    """Brings the link up by trying again. Goes on where the last call of `wait` stopped."""

    def __init__(self, bar: Mmio, model: Model) -> None:
        self._bar = bar
        self._model = model
        self._attempt = 0
        self._since = time.monotonic()

    def start(self) -> None:
        """The first attempt."""
        self._attempt = 0
        self._since = time.monotonic()
        start(self._bar, self._model, SFP_MODES[0])

    def wait(self, deadline: float) -> Link:
        """The link as soon as it is up; restarts it each ATTEMPT seconds. LinkDown after `deadline` seconds."""
        for _ in polls(deadline):
            link = read(self._bar)
            if link.up:
                return link
            if time.monotonic() - self._since >= ATTEMPT:
                self._attempt += 1
                self._since = time.monotonic()
                start(self._bar, self._model, SFP_MODES[self._attempt % len(SFP_MODES)])
        links = int(LINKS.read(self._bar))
        raise LinkDown(f"no link after {deadline:g} s (LINKS {links:#010x}); is the cable in, is the peer up?")
