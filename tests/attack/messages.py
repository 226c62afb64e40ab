"""Messages to the helper as no honest client sends them: recorded sessions, with one or two things changed."""

import random
from collections.abc import Sequence

from ixy_vfio_helper.protocol import SIZE, Attach, End, Hello, List, Memory, Message, Purpose, Seal, encode

INTERESTING = [0, 1, 2, 3, 0x7F, 0x80, 0xFF]
FIELDS = [0, 4, 6, 7, 8, *range(12, 28)]  # where header and requests have something to say
Packet = tuple[bytes, int]  # a message, and how many descriptors go with it


def sessions(first: str, second: str) -> list[list[bytes]]:
    """What real clients say that may have these two devices."""
    said: list[list[Message]] = [
        [Hello(), List(0), List(1), List(2), End()],
        [Hello(), Attach(first), Attach(second), Memory(16384, 1, Purpose.RINGS), Memory(16384, 2, Purpose.RINGS),
         Memory(65536, 3, Purpose.PACKETS), Seal(), End()],
        [Hello(), Attach(second), Memory(4096, 1, Purpose.RINGS)],
    ]  # fmt: skip
    return [[encode(message, number) for number, message in enumerate(session, 1)] for session in said]


def mutate(data: bytes, chance: random.Random) -> bytes:
    """One of the ways in which a message can be wrong, or just different."""
    changed = bytearray(data) or bytearray(SIZE)
    size = len(changed)
    match chance.randrange(8):
        case 0:  # one bit
            changed[chance.randrange(size)] ^= 1 << chance.randrange(8)
        case 1:  # an interesting byte where the fields are
            changed[min(chance.choice(FIELDS), size - 1)] = chance.choice(INTERESTING)
        case 2:  # cut
            del changed[chance.randrange(size) :]
        case 3:  # grown
            changed += chance.randbytes(chance.randrange(1, 4096))
        case 4:  # noise in the body
            start = chance.randrange(size)
            changed[start:] = chance.randbytes(size - start)
        case 5:  # another type
            changed[6:8] = chance.randrange(10).to_bytes(2, "little")
        case 6:  # a field turned to all ones
            start = chance.randrange(36)
            changed[start : start + 8] = b"\xff" * 8
        case 7:  # nothing: the message itself, once more
            pass
    return bytes(changed)


def mutated_session(recorded: Sequence[Sequence[bytes]], chance: random.Random) -> list[Packet]:
    """A recorded session with one or two things that are not as they were: packets, and descriptors with each."""
    packets: list[Packet] = [(data, 0) for data in chance.choice(recorded)]
    for _ in range(chance.randrange(1, 3)):
        where = chance.randrange(len(packets))
        match chance.randrange(6):
            case 0:
                packets.insert(where, packets[chance.randrange(len(packets))])
            case 1:
                packets[where] = (packets[where][0], chance.randrange(1, 40))
            case _:
                packets[where] = (mutate(packets[where][0], chance), 0)
    return packets
