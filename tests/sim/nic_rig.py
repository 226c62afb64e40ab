"""A simulated port without data plane or socket: a clock that the test turns, counters that it sets."""

import numpy as np
from numpy.typing import NDArray

from ixy_vfio.hw import Register
from ixy_vfio.sim.nic import Nic


class Counters:
    """Counters by name, as the data plane has them."""

    def __init__(self, *names: str) -> None:
        self.values: NDArray[np.uint64] = np.zeros(len(names), np.uint64)
        self._index = {name: index for index, name in enumerate(names)}

    def __getitem__(self, name: str) -> int:
        return int(self.values[self._index[name]])

    def __setitem__(self, name: str, value: int) -> None:
        self.values[self._index[name]] = value

    def __contains__(self, name: str) -> bool:
        return name in self._index


class FakePort:
    """Stands for a port of the data plane."""

    def __init__(self) -> None:
        self.bus_master = False
        self.link_up = self.loopback = False
        self.receive_causes: NDArray[np.uint8] = np.zeros(128, np.uint8)
        self.transmit_causes: NDArray[np.uint8] = np.zeros(128, np.uint8)
        self.carrier = True
        self.statistics = Counters("GPRC", "GORC", "QPTC3", "RXMPC0")
        self.violations: list[str] = []
        self.resets = 0

    def reset(self) -> None:
        self.resets += 1


class Rig:
    """A port that is out of reset, with a link."""

    def __init__(self, *, shared_pages: bool = False) -> None:
        self.now = 100.0
        self.port = FakePort()
        self.nic = Nic(0, lambda: self.now, shared_pages=shared_pages)
        self.nic.plug(self.port)
        self.wait(0.020)

    def wait(self, seconds: float) -> None:
        """Let time pass, in steps of 0.1 ms."""
        for _ in range(round(seconds / 0.0001)):
            self.now += 0.0001
            self.nic.tick(self.now)

    def read(self, row: Register, index: int = 0) -> int:
        return self.nic.bar.read(row.offset(index))

    def write(self, row: Register, value: int, index: int = 0) -> None:
        self.nic.bar.write(row.offset(index), value)

    def config_write(self, offset: int, size: int, value: int) -> None:
        self.nic.config.write(offset, value.to_bytes(size, "little"))

    def start(self) -> None:
        """Memory and bus master on."""
        self.config_write(4, 2, 0x0006)

    @property
    def violations(self) -> list[str]:
        return self.nic.violations

    def close(self) -> None:
        self.nic.close()
