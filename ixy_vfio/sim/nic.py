"""One simulated 82599 port: its parts, and what joins them (reset, clock, data plane)."""

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ixy_vfio.hw import ixgbe
from ixy_vfio.sim.bar0 import Bar0, Bar0Memory
from ixy_vfio.sim.config_space import ConfigSpace
from ixy_vfio.sim.eeprom import Eeprom
from ixy_vfio.sim.interrupts import LINK_STATUS_CHANGE, Interrupts
from ixy_vfio.sim.link import Link
from ixy_vfio.sim.sfp import Sfp
from ixy_vfio.sim.signals import Signals
from ixy_vfio.sim.statistics import Counters, Statistics
from ixy_vfio.transport import wire

CTRL_MASTER_DISABLE, CTRL_LINK_RESET, CTRL_RESET = 0x4, 0x8, 0x0400_0000
STATUS_MASTER_ENABLED = 0x0008_0000
HLREG0_LOOPBACK = 0x8000
RDRXCTL_DMA_DONE = 0x8
SEC_DISABLE, SEC_READY = 0x2, 0x1
QUEUE_ENABLE = 0x0200_0000  # RXDCTL, TXDCTL
FDIRHASH = 0x0EE28
FDIRCTRL_INIT_DONE, FDIRCMD_COMMAND = 0x8, 0x3

# Seconds after a reset; on hardware microseconds to some 10 ms (section 4.6.3).
RESET_TIME, EEPROM_TIME, DMA_TIME = 0.0001, 0.0010, 0.0015

SLOW_TICK = 0.001  # how often reset and link are looked at
NO_CAUSES = bytes(ixgbe.RX_QUEUES)
VIOLATIONS_KEPT = 1000
HISTORY_KEPT = 100
ALL_ONES = 0xFFFF_FFFF


class PlanePort(Protocol):
    """What the device model uses of a port of the data plane (`dataplane.Port`)."""

    bus_master: bool
    link_up: bool
    loopback: bool
    receive_causes: NDArray[np.uint8]
    transmit_causes: NDArray[np.uint8]

    @property
    def carrier(self) -> bool:
        """Whether there is a cable with a living far end."""

    @property
    def statistics(self) -> Counters:
        """The counters."""

    @property
    def violations(self) -> list[str]:
        """What the driver did against the book; cleared by the caller."""

    def reset(self) -> None:
        """Forget all queue state."""


class Hostility(Protocol):
    """What makes a port hostile (`hostile_registers.Lies`)."""

    def answer(self, region: int, offset: int, size: int, value: bytes) -> bytes:
        """What a read brings, in the place of `value`."""

    def tick(self, now: float) -> None:
        """At every tick."""


class Nic:
    """A port as PCI sees it. `far_light()` is whether the other end of the cable sends light."""

    def __init__(self, number: int, clock: Callable[[], float], *, shared_pages: bool = True) -> None:
        self.number = number
        self.gone = False  # surprise removal: all ones from now on
        self.violations: list[str] = []
        self.violation_count = 0
        self.history: deque[tuple[str, int]] = deque(maxlen=HISTORY_KEPT)  # see `note`
        self._clock = clock
        self._plane: PlanePort | None = None
        self.far_light: Callable[[], bool] = lambda: True
        self.hostile: Hostility | None = None
        self.memory = Bar0Memory(f"ixy-sim-bar0-{number}", shared_pages)
        self.bar = Bar0(self.memory.words, self.violate)
        self.eeprom = Eeprom(self.bar, number)
        self.config = ConfigSpace(number, self.eeprom.product, self._config_changed, self._function_level_reset)
        self.signals = Signals(self.config, self.violate)
        self.msix = self.signals.msix
        self.interrupts = Interrupts(self.bar, self.signals, clock)
        self.sfp = Sfp(self.bar)
        self.link = Link(self.bar, self._carrier, self._link_changed)
        self._reset_at = 0.0
        self._causes: list[tuple[memoryview, NDArray[np.uint8], bool]] = []
        self._slow_due = 0.0
        self._link_ready = False  # the MAC's set-up has been read from the EEPROM; a software reset leaves it alone
        self._settling = True  # a reset or the link is on its way
        self._phase = 0  # 0 in reset, 1 reset done, 2 EEPROM read, 3 DMA ready
        self._queues_changing: dict[int, int] = {}  # word of an xXDCTL -> its ENABLE bit until the data plane saw it
        self._hook()

    def plug(self, port: PlanePort) -> None:
        """Join with the data plane, and power up. Before it no access is served."""
        self._plane = port
        self._causes = [
            (port.receive_causes.data, port.receive_causes, False),
            (port.transmit_causes.data, port.transmit_causes, True),
        ]
        self.statistics = Statistics(self.bar, port.statistics)
        self.reset(link=True)

    def close(self) -> None:
        """Give up file descriptors."""
        self.signals.release()
        self.memory.close()

    def violate(self, text: str) -> None:
        """Record something that the book forbids."""
        self.violation_count += 1
        if len(self.violations) < VIOLATIONS_KEPT:
            self.violations.append(f"port {self.number}: {text}")

    def note(self, what: str, count: int) -> None:
        """Remember a change to what the device may reach, in order; counts of the same in a row are added up."""
        if self.history and self.history[-1][0] == what:
            count += self.history.pop()[1]
        self.history.append((what, count))

    def reset(self, *, link: bool) -> None:
        """Software reset (section 4.2.1.6), with `link` also of the MAC's link set-up. PCI stays as it is."""
        keep = (ixgbe.SW_FW_SYNC, ixgbe.SWSM, ixgbe.LEDCTL, ixgbe.GCR)
        mac = () if link else (ixgbe.AUTOC, ixgbe.AUTOC2, ixgbe.ESDP)
        self.bar.reset(keep + mac)
        self.interrupts.reset()
        self.eeprom.reset()
        if link:
            self.link.reset()
        self._queues_changing.clear()
        if self._plane is not None:
            self._plane.reset()
            self._plane.loopback = False
            self.statistics.clear()
            self._plane.receive_causes[:] = 0
            self._plane.transmit_causes[:] = 0
        self._phase = 0
        self._link_ready = not link and self._link_ready
        self._slow_due = self._reset_at = self._clock()
        self._config_changed()

    def full_reset(self) -> None:
        """VFIO_DEVICE_RESET: a function level reset around which the kernel saves and restores PCI configuration."""
        self.note("reset", 1)
        self.signals.reset()
        self.reset(link=True)

    def tick(self, now: float) -> float | None:
        """After every step of the data plane: causes, clocks. Returns when it must be called again, if it must."""
        if self.gone:
            return None
        if self.hostile is not None:
            self.hostile.tick(now)
        if self._queues_changing:
            self._queues_changing.clear()
        self._take_causes()
        due = self.interrupts.tick(now)
        if now >= self._slow_due:
            times = [self._advance_reset(now), self.link.tick(now, self._link_ready)]
            self._slow_due = min([now + SLOW_TICK, *(time for time in times if time is not None)])
            self._settling = any(time is not None for time in times)
        if self._settling and (due is None or self._slow_due < due):
            due = self._slow_due
        return due

    def region_read(self, region: int, offset: int, size: int) -> bytes:
        """A read of BAR0, the MSI-X BAR or configuration space, inside its bounds."""
        if self.gone:
            return b"\xff" * size
        value = self._honest_read(region, offset, size)
        return value if self.hostile is None else self.hostile.answer(region, offset, size, value)

    def _honest_read(self, region: int, offset: int, size: int) -> bytes:
        if region == wire.CONFIG_REGION:
            return self.config.read(offset, size)
        if region != wire.BAR0_REGION:
            return self.msix.read(offset, size)
        if size != 4 or offset % 4:
            self.violate(f"read of {size} bytes at {offset:#07x}: registers are read as aligned 32-bit words")
            return bytes(size)
        return self.bar.read(offset).to_bytes(4, "little")

    def region_write(self, region: int, offset: int, data: bytes) -> None:
        """A write to BAR0, the MSI-X BAR or configuration space, inside its bounds."""
        if self.gone:
            return
        if region == wire.CONFIG_REGION:
            self.config.write(offset, data)
        elif region != wire.BAR0_REGION:
            self.msix.write(offset, data)
        elif len(data) == 8 and offset == FDIRHASH:  # made for one 64-bit store: FDIRHASH with FDIRCMD, which starts it
            self.bar.write(offset, int.from_bytes(data[:4], "little"))
            self.bar.write(offset + 4, int.from_bytes(data[4:], "little"))
        elif len(data) != 4 or offset % 4:
            self.violate(f"write of {data[:8].hex()} ({len(data)} bytes) at {offset:#07x}: write aligned 32-bit words")
        else:
            self.bar.write(offset, int.from_bytes(data, "little"))

    @property
    def shines(self) -> bool:
        """Whether this end of the cable sends light: set up, out of reset, not removed."""
        dark = self.gone or self.bar.get(ixgbe.HLREG0) & HLREG0_LOOPBACK
        return self._link_ready and not dark and self.link.light

    def vanish(self) -> None:
        """Surprise removal: all reads give ones, no DMA, no interrupt, no light."""
        self.gone = True
        self.reset(link=True)
        self.signals.release()

    def drain(self) -> None:
        """Take over the violations that the data plane has seen."""
        if self._plane is not None:
            for text in self._plane.violations:
                self.violate(text)
            self._plane.violations.clear()

    def _take_causes(self) -> None:
        for view, causes, transmit in self._causes:
            if bytes(view) != NO_CAUSES:  # a tenth of the time of causes.any(), and done at every step
                for queue in np.flatnonzero(causes):
                    self.interrupts.queue(int(queue), transmit)
                causes[:] = 0

    def _advance_reset(self, now: float) -> float | None:
        times = (RESET_TIME, EEPROM_TIME, DMA_TIME)
        while self._phase < 3 and now >= self._reset_at + times[self._phase]:
            self._phase += 1
            if self._phase == 2:
                self.eeprom.auto_read()
                self._link_ready = True
            elif self._phase == 3:
                self.bar.set(ixgbe.RDRXCTL, self.bar.get(ixgbe.RDRXCTL) | RDRXCTL_DMA_DONE)
        return self._reset_at + times[self._phase] if self._phase < 3 else None

    def _carrier(self) -> bool:
        return self._plane is not None and self._plane.carrier and self.far_light()

    def _link_changed(self, up: bool) -> None:
        if self._plane is not None:
            self._plane.link_up = up
        self.interrupts.other(LINK_STATUS_CHANGE)

    def _config_changed(self) -> None:
        master = not self.gone and self.config.bus_master and not self.bar.get(ixgbe.CTRL) & CTRL_MASTER_DISABLE
        if self._plane is not None:
            if self._plane.bus_master != master:
                self.note("bus master on" if master else "bus master off", 1)
            self._plane.bus_master = master
        self.signals.flush()

    def _function_level_reset(self) -> None:
        self.note("reset", 1)
        self.signals.reset()
        self.reset(link=True)

    def _hook(self) -> None:
        bar = self.bar
        bar.on_write(ixgbe.CTRL, self._write_ctrl)
        bar.on_write(ixgbe.HLREG0, self._write_hlreg0)
        bar.on_read(ixgbe.CTRL, self._read_ctrl)
        bar.on_read(ixgbe.FRTIMER, lambda _: int(self._clock() * 1e6) & ALL_ONES)
        bar.on_read(ixgbe.SECTXSTAT, lambda _: SEC_READY if bar.get(ixgbe.SECTXCTRL) & SEC_DISABLE else 0)
        bar.on_read(ixgbe.SECRXSTAT, lambda _: SEC_READY if bar.get(ixgbe.SECRXCTRL) & SEC_DISABLE else 0)
        bar.on_read(ixgbe.FDIRCTRL, lambda _: bar.get(ixgbe.FDIRCTRL) | FDIRCTRL_INIT_DONE)
        bar.on_write(ixgbe.FDIRCMD, lambda _, value: bar.set(ixgbe.FDIRCMD, value & ~FDIRCMD_COMMAND))
        for row in (ixgbe.RXDCTL, ixgbe.TXDCTL):
            bar.on_write(row, self._write_queue_control(row))
            bar.on_read(row, self._read_queue_control(row))

    def _write_hlreg0(self, _: int, value: int) -> None:
        """With MAC loopback (section 3.7.6) the wire is left alone, which the other end sees as darkness."""
        loopback = bool(self.bar.merge(ixgbe.HLREG0, value) & HLREG0_LOOPBACK)
        if self._plane is not None:
            self._plane.loopback = loopback

    def _write_ctrl(self, _: int, value: int) -> None:
        self.bar.merge(ixgbe.CTRL, value & CTRL_MASTER_DISABLE)
        if value & (CTRL_RESET | CTRL_LINK_RESET):
            self.reset(link=bool(value & CTRL_LINK_RESET))
            return
        status = self.bar.get(ixgbe.STATUS) & ~STATUS_MASTER_ENABLED
        self.bar.set(ixgbe.STATUS, status | (0 if value & CTRL_MASTER_DISABLE else STATUS_MASTER_ENABLED))
        self._config_changed()

    def _read_ctrl(self, _: int) -> int:
        self._advance_reset(self._clock())
        return self.bar.get(ixgbe.CTRL) | (CTRL_RESET if self._phase == 0 else 0)

    def _write_queue_control(self, row: Any) -> Callable[[int, int], None]:
        def write(index: int, value: int) -> None:
            held = self.bar.get(row, index)
            if (self.bar.merge(row, value, index) ^ held) & QUEUE_ENABLE:
                self._queues_changing.setdefault(row.offset(index), held & QUEUE_ENABLE)

        return write

    def _read_queue_control(self, row: Any) -> Callable[[int], int]:
        def read(index: int) -> int:
            """ENABLE reads as the data plane has seen it: a change shows after its next step."""
            held = self.bar.get(row, index)
            seen = self._queues_changing.get(row.offset(index))
            return held if seen is None else held & ~QUEUE_ENABLE | seen

        return read
