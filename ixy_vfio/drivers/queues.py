"""Registers that all of Intel's families have alike, but for their place, and what is done with them.

Those of a ring, of the filter of addresses, and of RSS. A family names its rows; sections are its own.
"""

from typing import Any, NamedTuple

from ixy_vfio.core.errors import DeadlineError, DeviceError
from ixy_vfio.core.mmio import Mmio
from ixy_vfio.core.registers import RO, RW, Access, Register, bit, bits
from ixy_vfio.datapath.format import Ring
from ixy_vfio.hw import Register as Row

DESCRIPTOR = 16  # bytes
STANDARD_MTU = 1500
ADVANCED_ONE_BUFFER = 1  # SRRCTL.DESCTYPE
HEADER_BUFFER = 4  # SRRCTL.BSIZEHEADER after reset; without header split it has no effect
QUEUE_WAIT = 0.1  # seconds; Linux gives a queue 10 ms
# The key repeats 6D5A, so that both directions of a connection hash alike: Woo and Park, "Scalable TCP session
# monitoring with symmetric receive-side scaling", 2012.
RSS_KEY_WORD = 0x5A6D5A6D

Kind = type[Any]  # a class of a register: its fields are those of the function that makes it


def half(row: Row) -> Kind:
    """Half of the address of a ring."""

    class Half(Register, row=row, access=RW):
        """See the datasheet section of its row."""

        base: int = bits(0, 32, "the low half is aligned to 128 bytes")

    return Half


def length(row: Row) -> Kind:
    """The length of a ring."""

    class Length(Register, row=row, access=RW):
        """See the datasheet section of its row."""

        len: int = bits(0, 20, "bytes, a multiple of 128")

    return Length


def head(row: Row) -> Kind:
    """Where the device is in a ring."""

    class Head(Register, row=row, access=RO):
        """See the datasheet section of its row."""

        head: int = bits(0, 16, "descriptor index")

    return Head


def tail(row: Row) -> Kind:
    """The first descriptor that is not the device's."""

    class Tail(Register, row=row, access=RW):
        """See the datasheet section of its row."""

        tail: int = bits(0, 16, "descriptor index")

    return Tail


def table(row: Row, access: Access = RW) -> Kind:
    """A table of multicast or unicast hash values."""

    class Table(Register, row=row, access=access):
        """See the datasheet section of its row."""

        bit_vector: int = bits(0, 32, "one bit a hash value")

    return Table


def address_low(row: Row) -> Kind:
    """Receive address, bytes 0-3."""

    class Low(Register, row=row, access=RW):
        """See the datasheet section of its row."""

        address: int = bits(0, 32, "byte 0 is the lowest")

    return Low


def address_high(row: Row) -> Kind:
    """Receive address, bytes 4-5."""

    class High(Register, row=row, access=RW):
        """See the datasheet section of its row."""

        address: int = bits(0, 16, "byte 4 is the lower")
        av: int = bit(31, "address valid")

    return High


def rss_key(row: Row) -> Kind:
    """Four bytes of the RSS key."""

    class Key(Register, row=row, access=RW):
        """See the datasheet section of its row."""

        key: int = bits(0, 32, "byte 4n is the lowest")

    return Key


def rss_table(row: Row) -> Kind:
    """RSS redirection: the queue of hash values 4n to 4n + 3."""

    class Redirection(Register, row=row, access=RW):
        """See the datasheet section of its row."""

        entry0: int = bits(0, 4)
        entry1: int = bits(8, 4)
        entry2: int = bits(16, 4)
        entry3: int = bits(24, 4)

    return Redirection


def come_to_rest(bar: Mmio, control: Kind, status: Kind) -> bool:
    """No new PCIe requests; wait for those under way. Whether they ended in time.

    `control` has a field `master_disable`, `status` one `master_enable`.
    """
    control.modify(bar, master_disable=1)
    try:
        status.wait(bar, master_enable=0, within=QUEUE_WAIT)
    except DeadlineError:
        return False
    return True


class Rings(NamedTuple):
    """The receive or the transmit rings of a device; `control` has a field `enable`."""

    name: str  # "receive" or "transmit"
    low: Kind
    high: Kind
    length: Kind
    head: Kind
    tail: Kind
    control: Kind

    def place(self, bar: Mmio, queue: int, ring: Ring) -> None:
        """Tell the device where a ring is."""
        self.low(base=ring.iova & 0xFFFF_FFFF).write(bar, queue)
        self.high(base=ring.iova >> 32).write(bar, queue)
        self.length(len=ring.descriptors * DESCRIPTOR).write(bar, queue)

    def require_empty(self, bar: Mmio, queue: int) -> None:
        """DeviceError for a ring that the reset has not emptied."""
        if self.head.read(bar, queue).head or self.tail.read(bar, queue).tail:
            names = f"{self.head.row.name} or {self.tail.row.name}"
            raise DeviceError(f"{self.name} queue {queue} is not empty after the reset: {names} is not 0")

    def disable(self, bar: Mmio, queues: int, *, drain: bool = False) -> list[str]:
        """Disable the queues, each until it says that it is idle; `drain`: after what is in its ring was sent.

        Returns what did not become idle in time.
        """
        notes = []
        for queue in range(queues):
            if drain:
                try:
                    self.head.wait(bar, queue, head=self.tail.read(bar, queue).tail, within=QUEUE_WAIT)
                except DeadlineError as error:
                    notes.append(f"{self.name} queue {queue} was not sent to its end ({error})")
            self.control.modify(bar, queue, enable=0)
        for queue in range(queues):
            try:
                self.control.wait(bar, queue, enable=0, within=QUEUE_WAIT)
            except DeadlineError as error:
                notes.append(f"{self.name} queue {queue} is still enabled ({error})")
        return notes


class Filter(NamedTuple):
    """Which destination addresses are received."""

    low: Kind
    high: Kind
    multicast: Kind
    unicast: Kind

    def clear(self, bar: Mmio, addresses: int) -> None:
        """No address but that of the port, no multicast. The tables are memory: undefined until written."""
        for i in range(1, addresses):
            self.high(av=0).write(bar, i)
        for each in (self.multicast, self.unicast):
            for i in range(each.row.count):
                each().write(bar, i)

    def write(self, bar: Mmio, address: bytes) -> None:
        """Receive address 0. The high half, with the valid bit, is written last."""
        self.low(address=int.from_bytes(address[:4], "little")).write(bar)
        self.high(address=int.from_bytes(address[4:], "little"), av=1).write(bar)

    def read(self, bar: Mmio) -> bytes:
        """Receive address 0; after a reset the one from the EEPROM."""
        low, high = self.low.read(bar), self.high.read(bar)
        return bytes(low.address.to_bytes(4, "little") + high.address.to_bytes(2, "little"))


class Spread(NamedTuple):
    """RSS: the queue follows from a hash of addresses and ports."""

    key: Kind
    table: Kind

    def write(self, bar: Mmio, queues: int) -> None:
        """All queues in turn."""
        for i in range(self.key.row.count):
            self.key(key=RSS_KEY_WORD).write(bar, i)
        for i in range(self.table.row.count):
            entry0, entry1, entry2, entry3 = (n % queues for n in range(4 * i, 4 * i + 4))
            self.table(entry0=entry0, entry1=entry1, entry2=entry2, entry3=entry3).write(bar, i)
