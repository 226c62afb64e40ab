"""Why packets are dropped, in the words of the table and of the summary, and what to do about it."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ixy_vfio.drivers.contract import Counters

MOST_MTU = 9200


def mtu_to_try(mtu: int) -> str:
    """What to do when packets are longer than `mtu`."""
    if mtu >= MOST_MTU:
        return f"{MOST_MTU} is the most that is supported: set a smaller mtu at the sender"
    return f"try --mtu {9000 if mtu < 9000 else MOST_MTU}"


_SLOW = "they came faster than they were taken: try more --queues on --cores of their own, or a longer --ring"
_WIRE = "check the cable, the plugs and the transceivers"

# cause -> (the table's word, what happened, what to do). In the order in which they are shown. {mtu} is the port's.
CAUSES: dict[str, tuple[str, str, str]] = {
    "refused": ("refused", "were refused by the kernel", ""),
    "no_room": ("no room", "found no room in a transmit ring", "try a longer --ring"),
    "rx_errors": ("bad", "were bad, as the NIC marked them in its descriptors", _WIRE),
    "oversize": ("too many buffers", "took more buffers than a packet may have", "set a smaller mtu at the sender"),
    "missed": ("missed", "were dropped by the NIC, as its packet buffer was full", _SLOW),
    "no_descriptor": ("no buffer", "were dropped by the NIC, as their queue had no free buffer", _SLOW),
    "too_long": ("too long", "were longer than the mtu of {mtu} and dropped by the NIC", "{try_mtu}"),
    "too_short": ("too short", "were shorter than 64 bytes and dropped by the NIC", f"look at the sender, or {_WIRE}"),
    "crc_errors": ("wrong CRC", "had a wrong CRC and were dropped by the NIC", _WIRE),
    "illegal": ("illegal symbols", "had illegal symbols or bytes and were dropped by the NIC", _WIRE),
    "bad_length": ("wrong length", "had another length than their header says and were dropped by the NIC",
                   "look at the sender"),
    "unread": ("unread", "were in the NIC or in its rings when the run ended", ""),
}  # fmt: skip


def of_nic(counters: "Counters") -> dict[str, int]:
    """What the device dropped by itself, by cause."""
    drops = counters.drops
    return {name: getattr(drops, name) for name in type(drops).__slots__}


def advice(address: str, dropped: dict[str, int], mtu: int) -> list[str]:
    """A line for each cause that there is something to say about."""
    lines = []
    for cause, count in dropped.items():
        _, happened, todo = CAUSES[cause]
        if count and cause != "refused":
            frames = "1 frame" if count == 1 else f"{count} frames"
            text = f"{address}: {frames} {happened}" + (f"; {todo}" if todo else "")
            text = text.format(mtu=mtu, try_mtu=mtu_to_try(mtu))
            lines.append(text.replace(" were ", " was ", 1) if count == 1 else text)
    return lines


def short(dropped: dict[str, int], mtu: int) -> str:
    """Everything that was dropped, in few words."""
    words = []
    for cause, count in dropped.items():
        if count:
            hint = f" (try --mtu {9000 if mtu < 9000 else MOST_MTU})" if cause == "too_long" and mtu < MOST_MTU else ""
            words.append(f"{count} {CAUSES[cause][0]}{hint}")
    return ", ".join(words)
