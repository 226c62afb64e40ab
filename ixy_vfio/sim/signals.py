"""What an interrupt of a port becomes: the line INTA, one MSI, or MSI-X messages. And which of them is in use.

PCI 3.0, sections 2.2.6 (line) and 6.8.1 (MSI); the 82599 has pin A, one MSI with a mask bit, and 64 MSI-X vectors.
"""

import os
from collections.abc import Callable, Sequence
from typing import Protocol

from ixy_vfio.sim.config_space import ConfigSpace
from ixy_vfio.sim.msix import Msix, signal
from ixy_vfio.transport import wire


class Kind(Protocol):
    """What INTx, MSI and MSI-X have in common: eventfds of a client."""

    @property
    def assigned(self) -> int:
        """How many vectors have an eventfd."""

    def assign(self, start: int, fds: Sequence[int | None]) -> None:
        """Take over eventfds for vectors from `start`; None takes one away."""

    def release(self) -> None:
        """Give up every eventfd."""

    def signal(self, vector: int) -> None:
        """Signal the eventfd of a vector, whatever masks it."""


class Single:
    """A signal with one eventfd."""

    def __init__(self, config: ConfigSpace) -> None:
        self._config = config
        self._eventfd: int | None = None
        self.sent = 0

    @property
    def assigned(self) -> int:
        """1 with an eventfd, else 0."""
        return int(self._eventfd is not None)

    def assign(self, start: int, fds: Sequence[int | None]) -> None:
        """Take over the eventfd; `start` is 0. None takes it away."""
        old, self._eventfd = self._eventfd, fds[start]
        if old is not None:
            os.close(old)
        self.flush()

    def release(self) -> None:
        """Give up the eventfd."""
        self.assign(0, [None])

    def signal(self, vector: int = 0) -> None:
        """Signal the eventfd, whatever masks it; `vector` is 0."""
        if self._eventfd is not None:
            signal(self._eventfd)

    def flush(self) -> None:
        """Send what waits and no longer has to."""
        raise NotImplementedError

    def _send(self) -> None:
        self.sent += 1
        self.signal()


class Intx(Single):
    """The line. Its client is told that it is up, once: then it is masked until the client unmasks it.

    So VFIO has it for level-triggered interrupts (linux/vfio.h, VFIO_IRQ_INFO_AUTOMASKED).
    """

    def __init__(self, config: ConfigSpace) -> None:
        super().__init__(config)
        self._up = False
        self._masked = False

    def line(self, up: bool) -> None:
        """The device wants attention, or no longer."""
        if up != self._up:
            self._up = up
            self.flush()

    def mask(self, on: bool) -> None:
        """The client's mask. A line that is up when it is taken away is told at once."""
        self._masked = on
        self.flush()

    def release(self) -> None:
        """Give up the eventfd, and its mask with it."""
        super().release()
        self._masked = False

    def flush(self) -> None:
        """Tell the client of a line that is up, and show it in the status register."""
        up = self._up and self._config.intx_selected
        self._config.show_interrupt(up)
        if up and self._config.intx_enabled and not self._masked and self._eventfd is not None:
            self._masked = True
            self._send()


class Msi(Single):
    """The one message of MSI."""

    def __init__(self, config: ConfigSpace) -> None:
        super().__init__(config)
        self._pending = False

    def trigger(self) -> None:
        """Send the message, or leave it pending while it is masked."""
        self._pending = True
        self.flush()

    def reset(self) -> None:
        """Nothing is pending."""
        self._pending = False
        self._config.show_pending(False)

    def flush(self) -> None:
        """Send what is pending and no longer masked."""
        if self._pending and self._config.msi_usable and self._eventfd is not None:
            self._pending = False
            self._send()
        self._config.show_pending(self._pending)


class Signals:
    """All that leave a port. `kinds` has them by their VFIO index."""

    def __init__(self, config: ConfigSpace, violate: Callable[[str], None]) -> None:
        self._config = config
        self.msix = Msix(lambda: config.msix_usable and config.bus_master, violate)
        self.msi, self.intx = Msi(config), Intx(config)
        self.kinds: dict[int, Kind] = {wire.INTX_IRQ: self.intx, wire.MSI_IRQ: self.msi, wire.MSIX_IRQ: self.msix}

    def message(self, vector: int) -> None:
        """The device sends the MSI-X message of a vector."""
        self.msix.trigger(vector)

    def rise(self) -> None:
        """The device has one signal only, and a cause for it has come up: by what software has switched on."""
        if self._config.msix_enabled:
            self.msix.trigger(0)
        elif self._config.msi_enabled:
            self.msi.trigger()
        self.intx.line(True)

    def fall(self) -> None:
        """No cause for the one signal is left: of a message nothing can be taken back."""
        self.intx.line(False)

    def flush(self) -> None:
        """Configuration space has changed."""
        self.msix.flush()
        self.msi.flush()
        self.intx.flush()

    def reset(self) -> None:
        """Function level reset. Eventfds belong to the client and stay."""
        self.msix.reset()
        self.msi.reset()
        self.intx.line(False)

    def release(self) -> None:
        """Give up every eventfd."""
        for kind in self.kinds.values():
            kind.release()

    def storm(self) -> None:
        """Signal every eventfd, whatever masks it: for a hostile device."""
        self.msix.storm()
        self.msi.signal()
        self.intx.signal()
