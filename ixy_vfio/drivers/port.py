"""What ports of all families have in common: their life, their rings, their address, their interrupts.

A driver's device.py derives from `Port`, and brings two modules: its steps (init.py) and its interrupts (irq.py).
The guarantees of each member are written in `contract.NetDevice`.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from ixy_vfio.core import memory, pci
from ixy_vfio.core.errors import DeviceError, UsageError
from ixy_vfio.core.mmio import Mmio
from ixy_vfio.datapath.format import CHAIN_LIMIT, Format, Queue, Ring
from ixy_vfio.drivers.contract import Counters, Link, PortConfig
from ixy_vfio.drivers.queues import DESCRIPTOR
from ixy_vfio.transport.base import Device

RING_LENGTHS = tuple(64 << n for n in range(7))  # 64..4096, as RDLEN and TDLEN allow
RING_ALIGNMENT = 4096  # a device wants 128; a page keeps rings apart
TAGGED_OVERHEAD = 14 + 2 * 4  # bytes of a packet in memory above its MTU: header and two VLAN tags


class State(Enum):
    """Where in its life a port is."""

    NEW = "not initialised"
    READY = "initialised"
    RECEIVING = "receiving"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a device can do."""

    queues: int
    mtu: range
    buffers: range  # bytes of a receive buffer


@dataclass(frozen=True, slots=True)
class Doorbells:
    """Where the tail registers of a queue lie: whole pages of BAR0 as (offset, size), and the offset in BAR0."""

    rx_page: tuple[int, int]
    rx_tail: int
    tx_page: tuple[int, int]
    tx_tail: int


class Steps(Protocol):
    """A driver's init.py: what is done to the registers at each step of a port's life."""

    def reset(self, bar: Mmio) -> list[str]:
        """From any state to that after power-on. Returns what was odd."""

    def enable_receive(self, bar: Mmio, queues: int) -> None:
        """Let packets in."""

    def stop(self, bar: Mmio, queues: int) -> list[str]:
        """No more interrupts, no more DMA; all writes have arrived. Returns what did not become idle in time."""

    def read_mac(self, bar: Mmio) -> bytes:
        """Receive address 0; after a reset the one from the EEPROM."""

    def write_mac(self, bar: Mmio, address: bytes) -> None:
        """Receive address 0."""

    def write_promiscuous(self, bar: Mmio, on: bool) -> None:
        """Packets to everybody, or only to the port and to all."""


class Interrupts(Protocol):
    """A driver's irq.py: vector i serves receive queue i, the one after the last queue serves the link."""

    def itr_interval(self, seconds: float) -> int:
        """The same in the device's units. UsageError for what it cannot do."""

    def disable_all(self, bar: Mmio) -> None:
        """Mask every cause."""

    def enable(self, bar: Mmio, queues: int, interval: int, *, link: bool) -> None:
        """Route the causes to their vectors, and unmask them."""

    def mask(self, bar: Mmio, vector: int) -> None:
        """No more interrupts of this vector."""

    def unmask(self, bar: Mmio, vector: int) -> None:
        """Interrupts of this vector again, at once if its cause is pending."""

    def acknowledge_link(self, bar: Mmio) -> None:
        """Clear the link's cause."""


def check(config: PortConfig, limits: Limits) -> None:
    """UsageError for what the device cannot do, or what the buffers of a packet cannot hold."""
    if not 1 <= config.queues <= limits.queues:
        raise UsageError(f"{config.queues} queues: choose 1 to {limits.queues}")
    for name, length in (("receive", config.rx_ring), ("transmit", config.tx_ring)):
        if length not in RING_LENGTHS:
            raise UsageError(f"a {name} ring of {length} descriptors: choose a power of two from 64 to 4096")
    if config.mtu not in limits.mtu:
        raise UsageError(f"MTU {config.mtu}: choose {limits.mtu[0]} to {limits.mtu[-1]}")
    if config.buffer_size not in limits.buffers:
        step, most = limits.buffers.step, limits.buffers[-1]
        raise UsageError(f"buffers of {config.buffer_size} bytes: choose a multiple of {step}, up to {most}")
    most = CHAIN_LIMIT * config.buffer_size - TAGGED_OVERHEAD
    if config.mtu > most:
        raise UsageError(f"MTU {config.mtu}: {CHAIN_LIMIT} buffers of {config.buffer_size} bytes hold {most}")


def _ring_size(descriptors: int) -> int:
    return -(-descriptors * DESCRIPTOR // RING_ALIGNMENT) * RING_ALIGNMENT


def ring_memory(config: PortConfig, limits: Limits) -> int:
    """Bytes of ring memory that `config` needs. UsageError when it cannot be."""
    check(config, limits)
    return config.queues * (_ring_size(config.rx_ring) + _ring_size(config.tx_ring))


def _is_port_address(address: bytes) -> bool:
    return len(address) == 6 and not address[0] & 1 and any(address)


class Port(ABC):
    """A port of a device whose rings are `format`'s."""

    def __init__(
        self,
        device: Device,
        config: PortConfig,
        rings: memory.DmaMemory,
        *,
        limits: Limits,
        steps: Steps,
        interrupts: Interrupts,
        format: Format,
    ) -> None:
        """Check everything; touch no register. `rings` stays the caller's, and must outlive `stop`."""
        needed = ring_memory(config, limits)
        if rings.size < needed or rings.iova % RING_ALIGNMENT:
            raise UsageError(f"ring memory: {needed} bytes at a page boundary are needed, {rings.size} were given")
        self.config = config
        self.notes: Sequence[str] = ()
        self._device = device
        self._bar = device.bar0
        self._limits, self._steps, self._irq, self._format = limits, steps, interrupts, format
        self._memory = rings
        self._rings = self._lay_out_rings()
        self._mac: bytes | None = None  # as asked for
        self._eeprom_mac: bytes | None = None  # known from the first `initialise` on
        self._promiscuous = config.promiscuous
        self._pages: dict[tuple[int, int], memory.Mapping] = {}
        self._state = State.NEW

    def _lay_out_rings(self) -> tuple[tuple[Ring, Ring], ...]:
        offset = 0
        rings = []
        for length in (self.config.rx_ring, self.config.tx_ring) * self.config.queues:
            rings.append(Ring(self._memory.address + offset, self._memory.iova + offset, length))
            offset += _ring_size(length)
        return tuple(zip(rings[::2], rings[1::2], strict=True))

    def _require(self, *states: State) -> None:
        if self._state not in states:
            raise UsageError(f"{self._device.address}: the port is {self._state.value}")

    # --- What a driver fills in ----------------------------------------------------------------------------------

    @abstractmethod
    def _configure(self) -> None:
        """After the reset: set up to the point where the queues stand and receive is off; counters are 0."""

    @abstractmethod
    def _doorbells(self, index: int) -> Doorbells:
        """Of a queue."""

    @abstractmethod
    def link(self) -> Link:
        """The link, now."""

    @abstractmethod
    def wait_link(self, deadline: float) -> Link:
        """The link, when it is up."""

    @abstractmethod
    def counters(self) -> Counters:
        """Totals since `initialise`."""

    # --- Life ----------------------------------------------------------------------------------------------------

    def initialise(self) -> None:
        """Reset and set up; receive stays off."""
        self._require(State.NEW, State.STOPPED)
        size = ring_memory(self.config, self._limits)
        self._memory.view[:size] = bytes(size)
        pci.set_bus_master(self._device, False)  # until the reset the device may still know somebody else's rings
        self.notes = self._steps.reset(self._bar)
        pci.set_bus_master(self._device, True)
        try:
            self._configure()
        except BaseException:
            pci.set_bus_master(self._device, False)
            raise
        if self._mac is None:
            self._eeprom_mac = self._steps.read_mac(self._bar)
            if not _is_port_address(self._eeprom_mac):
                self.notes = [*self.notes, f"the EEPROM's address {self._eeprom_mac.hex(':')} is not one; set another"]
        self._state = State.READY

    def enable_receive(self) -> None:
        """Let packets in."""
        self._require(State.READY)
        self._steps.enable_receive(self._bar, self.config.queues)
        self._state = State.RECEIVING

    def stop(self) -> Sequence[str]:
        """End all DMA. The last register read is answered only when all writes before it have arrived."""
        if self._state in (State.NEW, State.STOPPED):
            return ()
        try:
            return self._steps.stop(self._bar, self.config.queues)
        finally:
            self._state = State.STOPPED
            pci.set_bus_master(self._device, False)

    def close(self) -> None:
        """Unmap the doorbells."""
        while self._pages:
            self._pages.popitem()[1].close()

    # --- Data path -----------------------------------------------------------------------------------------------

    def queue(self, index: int) -> Queue:
        """Rings and doorbells of a queue."""
        self._require(State.READY, State.RECEIVING)
        rx, tx = self._rings[self._checked(index)]
        bells = self._doorbells(index)
        return Queue(
            index=index,
            rx=rx,
            tx=tx,
            rx_page=self._page(bells.rx_page),
            rx_tail=bells.rx_tail - bells.rx_page[0],
            tx_page=self._page(bells.tx_page),
            tx_tail=bells.tx_tail - bells.tx_page[0],
            buffer_size=self.config.buffer_size,
            format=self._format,
        )

    def _page(self, where: tuple[int, int]) -> memory.Mapping:
        if where not in self._pages:
            self._pages[where] = self._bar.map(*where)
        return self._pages[where]

    def _checked(self, queue: int) -> int:
        if not 0 <= queue < self.config.queues:
            raise UsageError(f"queue {queue}: the port has {self.config.queues}")
        return queue

    # --- Control -------------------------------------------------------------------------------------------------

    @property
    def mac(self) -> bytes:
        """The address of the port."""
        return self._mac or self._eeprom_mac or self._steps.read_mac(self._bar)

    @mac.setter
    def mac(self, address: bytes) -> None:
        if not _is_port_address(address):
            raise UsageError(f"{address.hex(':')}: a port's address has 6 bytes, is not zero and not a group address")
        self._mac = bytes(address)
        if self._state in (State.READY, State.RECEIVING):
            self._steps.write_mac(self._bar, self._mac)

    @property
    def promiscuous(self) -> bool:
        """Whether packets to everybody are received."""
        return self._promiscuous

    @promiscuous.setter
    def promiscuous(self, on: bool) -> None:
        self._promiscuous = on
        if self._state in (State.READY, State.RECEIVING):
            self._steps.write_promiscuous(self._bar, on)

    # --- Interrupts ----------------------------------------------------------------------------------------------

    def enable_interrupts(self, eventfds: Sequence[int], interval: float = 0.0) -> None:
        """One eventfd a queue, then perhaps one for the link."""
        self._require(State.READY, State.RECEIVING)
        queues = self.config.queues
        if len(eventfds) not in (queues, queues + 1):
            raise UsageError(f"{len(eventfds)} eventfds for {queues} queues: one each is needed, or one more")
        if self._device.msix_vectors < len(eventfds):
            raise DeviceError(f"the device has {self._device.msix_vectors} MSI-X vectors, {len(eventfds)} are needed")
        units = self._irq.itr_interval(interval)
        self._device.set_interrupts(eventfds)
        self._irq.enable(self._bar, queues, units, link=len(eventfds) > queues)

    def disable_interrupts(self) -> None:
        """Mask all, then forget the eventfds."""
        self._irq.disable_all(self._bar)
        self._device.set_interrupts(())

    def mask_interrupt(self, queue: int) -> None:
        """No more interrupts for this queue."""
        self._irq.mask(self._bar, self._checked(queue))

    def unmask_interrupt(self, queue: int) -> None:
        """Interrupts for this queue again."""
        self._irq.unmask(self._bar, self._checked(queue))

    def acknowledge_link(self) -> Link:
        """Arm the link's interrupt again; the link, now."""
        self._irq.acknowledge_link(self._bar)
        return self.link()
