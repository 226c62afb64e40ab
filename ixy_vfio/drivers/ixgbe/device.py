"""The life of an ixgbe port: made, initialised, receiving, stopped, closed. The contract is `contract.NetDevice`."""

from collections.abc import Sequence
from enum import Enum

from ixy_vfio.core import memory, pci
from ixy_vfio.core.errors import DeviceError, UsageError
from ixy_vfio.datapath.format import CHAIN_LIMIT, Queue, Ring
from ixy_vfio.drivers.contract import Counters, Link, PortConfig
from ixy_vfio.drivers.ixgbe import counters, init, irq, link
from ixy_vfio.drivers.ixgbe.format import FORMAT
from ixy_vfio.drivers.ixgbe.models import model_of
from ixy_vfio.drivers.ixgbe.regs.general import STATUS
from ixy_vfio.hw import ixgbe as hw
from ixy_vfio.transport.base import Device

MAX_QUEUES = 16  # 7.1.2.8: RSS reaches 16; so many counters there are, too
RING_LENGTHS = tuple(64 << n for n in range(7))  # 64..4096, as RDLEN and TDLEN allow
MTU_RANGE = range(68, 9711)  # IPv4's minimum; MAXFRS: 9728 bytes with header and CRC
BUFFER_SIZES = range(1024, 16 * 1024 + 1, 1024)  # SRRCTL.BSIZEPACKET
TAGGED_OVERHEAD = 14 + 2 * 4  # bytes of a packet in memory above its MTU: header and two VLAN tags
RING_ALIGNMENT = 4096  # the device wants 128; a page keeps rings apart


class State(Enum):
    """Where in its life a port is."""

    NEW = "not initialised"
    READY = "initialised"
    RECEIVING = "receiving"
    STOPPED = "stopped"


def check(config: PortConfig) -> None:
    """UsageError for what the device cannot do, or what the buffers of a packet cannot hold."""
    if not 1 <= config.queues <= MAX_QUEUES:
        raise UsageError(f"{config.queues} queues: choose 1 to {MAX_QUEUES}")
    for name, length in (("receive", config.rx_ring), ("transmit", config.tx_ring)):
        if length not in RING_LENGTHS:
            raise UsageError(f"a {name} ring of {length} descriptors: choose a power of two from 64 to 4096")
    if config.mtu not in MTU_RANGE:
        raise UsageError(f"MTU {config.mtu}: choose {MTU_RANGE[0]} to {MTU_RANGE[-1]}")
    if config.buffer_size not in BUFFER_SIZES:
        raise UsageError(f"buffers of {config.buffer_size} bytes: choose a multiple of 1024, up to 16384")
    most = CHAIN_LIMIT * config.buffer_size - TAGGED_OVERHEAD
    if config.mtu > most:
        raise UsageError(f"MTU {config.mtu}: {CHAIN_LIMIT} buffers of {config.buffer_size} bytes hold {most}")


def _ring_size(descriptors: int) -> int:
    return -(-descriptors * init.DESCRIPTOR // RING_ALIGNMENT) * RING_ALIGNMENT


def ring_memory(config: PortConfig) -> int:
    """Bytes of ring memory that `config` needs. UsageError when it cannot be."""
    check(config)
    return config.queues * (_ring_size(config.rx_ring) + _ring_size(config.tx_ring))


def _is_port_address(address: bytes) -> bool:
    return len(address) == 6 and not address[0] & 1 and any(address)


class Ixgbe:
    """A port of an 82599, X540 or X550. Each member's guarantee is written in `contract.NetDevice`."""

    def __init__(self, device: Device, config: PortConfig, rings: memory.DmaMemory) -> None:
        """Check everything; touch no register. `rings` stays the caller's, and must outlive `stop`."""
        needed = ring_memory(config)
        if rings.size < needed or rings.iova % RING_ALIGNMENT:
            raise UsageError(f"ring memory: {needed} bytes at a page boundary are needed, {rings.size} were given")
        self.config = config
        self.notes: Sequence[str] = ()
        self._device = device
        self._bar = device.bar0
        self._model = model_of(pci.identify(device)[1])
        self._memory = rings
        self._rings = self._lay_out_rings()
        self._mac: bytes | None = None  # as asked for
        self._eeprom_mac: bytes | None = None  # known from the first `initialise` on
        self._promiscuous = config.promiscuous
        self._totals = counters.Totals(config.queues)
        self._link = link.Retry(self._bar, self._model)
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

    # --- Life ----------------------------------------------------------------------------------------------------

    def initialise(self) -> None:
        """Reset and set up; receive stays off."""
        self._require(State.NEW, State.STOPPED)
        size = ring_memory(self.config)
        self._memory.view[:size] = bytes(size)
        pci.set_bus_master(self._device, False)  # until the reset the device may still know somebody else's rings
        self.notes = init.reset(self._bar)
        setup = init.Setup(self._model, self.config, self._promiscuous, self._mac, self._rings, self._link)
        pci.set_bus_master(self._device, True)
        try:
            init.configure(self._bar, setup)
        except BaseException:
            pci.set_bus_master(self._device, False)
            raise
        self._totals = counters.Totals(self.config.queues)
        if self._mac is None:
            self._eeprom_mac = init.read_mac(self._bar)
            if not _is_port_address(self._eeprom_mac):
                self.notes = [*self.notes, f"the EEPROM's address {self._eeprom_mac.hex(':')} is not one; set another"]
        self._state = State.READY

    def enable_receive(self) -> None:
        """Let packets in."""
        self._require(State.READY)
        init.enable_receive(self._bar)
        self._state = State.RECEIVING

    def stop(self) -> Sequence[str]:
        """End all DMA. The last register read is answered only when all writes before it have arrived."""
        if self._state in (State.NEW, State.STOPPED):
            return ()
        try:
            irq.disable_all(self._bar)
            notes = init.disable_receive(self._bar, self.config.queues)
            notes += init.disable_transmit(self._bar, self.config.queues)
            init.driver_loaded(self._bar, False)
            STATUS.read(self._bar)
        finally:
            self._state = State.STOPPED
            pci.set_bus_master(self._device, False)
        return notes

    def close(self) -> None:
        """Unmap the doorbells."""
        while self._pages:
            self._pages.popitem()[1].close()

    # --- Data path -----------------------------------------------------------------------------------------------

    def queue(self, index: int) -> Queue:
        """Rings and doorbells of a queue."""
        self._require(State.READY, State.RECEIVING)
        if not 0 <= index < self.config.queues:
            raise UsageError(f"queue {index}: the port has {self.config.queues}")
        rx, tx = self._rings[index]
        return Queue(
            index=index,
            rx=rx,
            tx=tx,
            rx_page=self._page(hw.RX_QUEUE_PAGES),
            rx_tail=hw.RDT.offset(index) - hw.RX_QUEUE_PAGES[0],
            tx_page=self._page(hw.TX_QUEUE_PAGES),
            tx_tail=hw.TDT.offset(index) - hw.TX_QUEUE_PAGES[0],
            buffer_size=self.config.buffer_size,
            format=FORMAT,
        )

    def _page(self, where: tuple[int, int]) -> memory.Mapping:
        if where not in self._pages:
            self._pages[where] = self._bar.map(*where)
        return self._pages[where]

    # --- Control -------------------------------------------------------------------------------------------------

    def link(self) -> Link:
        """The link, now."""
        return link.read(self._bar)

    def wait_link(self, deadline: float) -> Link:
        """The link, when it is up."""
        return self._link.wait(deadline)

    @property
    def mac(self) -> bytes:
        """The address of the port."""
        return self._mac or self._eeprom_mac or init.read_mac(self._bar)

    @mac.setter
    def mac(self, address: bytes) -> None:
        if not _is_port_address(address):
            raise UsageError(f"{address.hex(':')}: a port's address has 6 bytes, is not zero and not a group address")
        self._mac = bytes(address)
        if self._state in (State.READY, State.RECEIVING):
            init.write_mac(self._bar, self._mac)

    @property
    def promiscuous(self) -> bool:
        """Whether packets to everybody are received."""
        return self._promiscuous

    @promiscuous.setter
    def promiscuous(self, on: bool) -> None:
        self._promiscuous = on
        if self._state in (State.READY, State.RECEIVING):
            init.write_promiscuous(self._bar, on)

    def counters(self) -> Counters:
        """Totals since `initialise`."""
        return self._totals.update(self._bar)

    # --- Interrupts ----------------------------------------------------------------------------------------------

    def enable_interrupts(self, eventfds: Sequence[int], interval: float = 0.0) -> None:
        """One eventfd a queue, then perhaps one for the link."""
        self._require(State.READY, State.RECEIVING)
        queues = self.config.queues
        if len(eventfds) not in (queues, queues + 1):
            raise UsageError(f"{len(eventfds)} eventfds for {queues} queues: one each is needed, or one more")
        if self._device.msix_vectors < len(eventfds):
            raise DeviceError(f"the device has {self._device.msix_vectors} MSI-X vectors, {len(eventfds)} are needed")
        units = irq.itr_interval(interval)
        self._device.set_interrupts(eventfds)
        irq.enable(self._bar, queues, units, link=len(eventfds) > queues)

    def disable_interrupts(self) -> None:
        """Mask all, then forget the eventfds."""
        irq.disable_all(self._bar)
        self._device.set_interrupts(())

    def mask_interrupt(self, queue: int) -> None:
        """No more interrupts for this queue."""
        irq.mask(self._bar, self._vector(queue))

    def unmask_interrupt(self, queue: int) -> None:
        """Interrupts for this queue again."""
        irq.unmask(self._bar, self._vector(queue))

    def _vector(self, queue: int) -> int:
        if not 0 <= queue < self.config.queues:
            raise UsageError(f"queue {queue}: the port has {self.config.queues}")
        return queue

    def acknowledge_link(self) -> Link:
        """Arm the link's interrupt again; the link, now."""
        irq.acknowledge_link(self._bar)
        return self.link()
