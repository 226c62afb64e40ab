"""What every driver offers, and the driver of a device. `datapath.format` is the other half of the contract.

The path of a port, in order:

    port = open_port(device, PortConfig(), lambda size: lease.memory(size, [device], Purpose.RINGS))
    port.initialise()             # the device is reset; queues stand, receive is still off
    queue = port.queue(0)         # all that a data path needs, the format of its descriptors included
    QueuePair(queue, pool).arm()  # the receive ring is full of buffers
    port.enable_receive()
    port.wait_link(10.0)
    ...
    port.stop()                   # from here on the device does no DMA: memory may be used again
    port.close()
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

from ixy_vfio.core import memory, pci
from ixy_vfio.core.errors import UsageError
from ixy_vfio.core.registers import Register
from ixy_vfio.datapath.format import Format, Queue
from ixy_vfio.hw import devices
from ixy_vfio.transport.base import Device


@dataclass(frozen=True, slots=True)
class PortConfig:
    """What a port shall be. A driver checks it before it touches a register, and raises UsageError.

    A queue is a pair: one receive and one transmit ring. Ring lengths are in descriptors of 16 bytes.
    """

    queues: int = 1
    rx_ring: int = 512
    tx_ring: int = 512
    mtu: int = 1500
    buffer_size: int = 2048  # bytes that the device may write to one receive buffer
    promiscuous: bool = False


@dataclass(frozen=True, slots=True)
class Link:
    """State of the link; `speed` in Mbit/s, 0 when it is down."""

    up: bool
    speed: int

    def __str__(self) -> str:
        if not self.up:
            return "down"
        return f"up, {self.speed // 1000} Gbit/s" if self.speed % 1000 == 0 else f"up, {self.speed} Mbit/s"


@dataclass(frozen=True, slots=True)
class QueueCounters:
    """What the device counted for one queue since `initialise`."""

    rx_packets: int = 0
    rx_bytes: int = 0
    rx_dropped: int = 0
    tx_packets: int = 0
    tx_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Drops:
    """What the device received and dropped by itself, by cause.

    A packet that is wrong in several ways may be counted under more than one.
    """

    missed: int = 0  # no room in the packet buffer: the rings were not emptied in time
    no_descriptor: int = 0  # no free descriptor in the packet's queue
    too_long: int = 0  # longer than the port's mtu allows
    too_short: int = 0  # less than 64 bytes, with the CRC
    crc_errors: int = 0  # and of a length that is allowed
    illegal: int = 0  # symbols or bytes that cannot be
    bad_length: int = 0  # not the length that the packet's own header says

    @property
    def wrong(self) -> int:
        """All that were wrong: not those that found no room."""
        return self.too_long + self.too_short + self.crc_errors + self.illegal + self.bad_length


@dataclass(frozen=True, slots=True)
class Counters:
    """What the device counted since `initialise`. `registers` has every counter by the datasheet's name."""

    rx_packets: int  # good packets
    rx_bytes: int  # of good packets, CRC included
    rx_missed: int  # no room in the packet buffer: the rings were not refilled in time
    rx_errors: int  # `drops.wrong`
    tx_packets: int
    tx_bytes: int
    queues: tuple[QueueCounters, ...]
    registers: Mapping[str, int]
    drops: Drops = Drops()
    rx_waiting: int = 0  # good packets in the device's packet buffer: after `stop` they are lost


@dataclass(frozen=True, slots=True)
class Look:
    """What a device says of itself. `counters` were cleared by the look, and have the datasheet's names."""

    model: str
    link: Link
    mac: bytes
    counters: Mapping[str, int]


INTERRUPT_INTERVAL = 0.0005  # seconds between two interrupts: under load they come in vain, so let them be few


class NetDevice(Protocol):
    """One network port. Not thread-safe; one process (control) holds it, workers hold a `Queue` each."""

    config: PortConfig

    def initialise(self) -> None:
        """Reset the device and set it up to the point where the queues are enabled and receive is off.

        May be called again after `stop`. Takes up to some seconds; raises DeadlineError with the register that
        did not come up, DeviceGone when the device was removed. Turns bus mastering on. The link is told to come
        up, but not waited for.
        """

    @property
    def notes(self) -> Sequence[str]:
        """What `initialise` found odd but could live with, one line each."""

    def queue(self, index: int) -> Queue:
        """The rings and doorbells of queue `index`; UsageError outside 0..queues-1 or before `initialise`."""

    def enable_receive(self) -> None:
        """Let packets in. Before this call none is received, whatever the rings hold."""

    def link(self) -> Link:
        """The link, now."""

    def wait_link(self, deadline: float) -> Link:
        """The link, as soon as it is up, restarted where the medium needs it. LinkDown after `deadline` seconds.

        May be called again and again with short deadlines: the attempts go on where the last call stopped.
        """

    @property
    def mac(self) -> bytes:
        """The address whose unicast packets are received: 6 bytes, the one of the EEPROM unless it was set.

        Needs the device only before the first `initialise`.
        """

    @mac.setter
    def mac(self, address: bytes) -> None:
        """UsageError unless it is 6 bytes and a unicast address."""

    @property
    def promiscuous(self) -> bool:
        """Whether packets to every address are received. Off unless asked for."""

    @promiscuous.setter
    def promiscuous(self, on: bool) -> None: ...

    def counters(self) -> Counters:
        """Totals since `initialise`, 64 bits wide. Call it often enough that no 32-bit counter wraps: each 30 s."""

    def enable_interrupts(self, eventfds: Sequence[int], interval: float = 0.0) -> None:
        """Signal eventfds[i] when queue i has received, and one more, if it is given, when the link has changed.

        At most one interrupt in `interval` seconds each (0: no limit). The cause clears itself and no vector masks
        itself, so a worker needs no register: it polls until there is nothing left, then waits for its eventfd.
        UsageError unless there is one eventfd for each queue, or one more.
        """

    def disable_interrupts(self) -> None:
        """Mask every vector and forget the eventfds."""

    def mask_interrupt(self, queue: int) -> None:
        """No more interrupts for this queue (while it is polled)."""

    def unmask_interrupt(self, queue: int) -> None:
        """Interrupts for this queue again; one comes at once when something happened in between."""

    def acknowledge_link(self) -> Link:
        """After the last eventfd was signalled: arm it again, and say how the link is now."""

    def stop(self) -> Sequence[str]:
        """End all DMA: receive off, transmit drained, queues disabled, bus master off, flushed by a read.

        Memory may be used again only after this call. Returns what did not become idle in time, one line each
        (empty: all well); even then bus mastering is off. Idempotent. Raises DeviceGone when the device was removed.
        """

    def close(self) -> None:
        """Unmap the doorbells. Idempotent. Does not stop the device: `stop` does, and so does the lease's end."""


class Driver(Protocol):
    """A driver's package: `ixy_vfio.drivers.ixgbe`, ..."""

    def ring_memory(self, config: PortConfig) -> int:
        """Bytes of ring memory that `config` needs. UsageError for a configuration that cannot be."""

    def open(self, device: Device, config: PortConfig, rings: memory.DmaMemory) -> NetDevice:
        """A port on `device`. Touches no register."""

    def look(self, device: Device) -> Look:
        """What `device` says of itself, in whatever state it is. It reads registers and writes none."""

    def registers(self) -> Sequence[type[Register]]:
        """Every register that the driver knows, in the order of the datasheet."""

    def descriptor_format(self) -> Format:
        """What the descriptors of its queues are like; each `Queue` has it, too. Brings the compiler along."""


def driver_for(address: str, vendor: int, device_id: int) -> Driver:
    """The driver of a device with these PCI ids. UsageError, which names the `address`, when there is none."""
    name = devices.driver_for(vendor, device_id)
    if not name:
        kind = devices.NOT_SERVED.get((vendor, device_id))
        known = f"no driver here serves the {kind}" if kind else f"it is not an {' or '.join(devices.DRIVERS)} device"
        raise UsageError(f"{address}: no driver for {vendor:04x}:{device_id:04x}; {known}")
    return cast(Driver, importlib.import_module(f"ixy_vfio.drivers.{name}"))


def driver_of(device: Device) -> Driver:
    """The driver of a device, by its PCI ids. UsageError when there is none."""
    return driver_for(device.address, *pci.identify(device))


def open_port(device: Device, config: PortConfig, ring_memory: Callable[[int], memory.DmaMemory]) -> NetDevice:
    """A port on `device`; `ring_memory(size)` must give zeroed memory that only this device reaches."""
    driver = driver_of(device)
    return driver.open(device, config, ring_memory(driver.ring_memory(config)))
