"""A packet limit that several workers share, without shared memory and without one waiting for another.

Each worker starts with a part of the limit. One that has used up its part is granted half of what the others may
still receive, again and again: the sum of all parts never exceeds the limit, and the last packet may come to any
worker. Every number that is sent is a total, so a message that comes late can only understate what is free.
"""

import time
from collections.abc import Callable, Sequence

from ixy_vfio.runtime import messages
from ixy_vfio.runtime.child import Worker
from ixy_vfio.runtime.messages import Kind


def part(whole: int, parts: int, index: int) -> int:
    """One of the parts of `whole`, which differ by 1 at most; the first ones are the larger ones."""
    return whole // parts + (index < whole % parts)


def used_up(limit: int, workers: Sequence[Worker], ask: Callable[[Kind, Sequence[Worker]], None]) -> bool:
    """Grant more to the workers that wait for it. True when all packets of the limit have come.

    `ask(kind, workers)` sends a question, and returns when their shares are new.
    """
    waiting = sorted(
        (one for one in workers if one.at_limit), key=lambda one: one.granted_at
    )  # the last packet goes round
    if not waiting:
        return False
    ask(Kind.GIVE_BACK, [one for one in workers if one not in waiting])
    free = max(limit - sum(one.may_receive for one in workers), 0)
    for index, one in enumerate(waiting):
        more = part(free, len(waiting), index)
        if more and one.granted is not None:
            one.granted += more
            one.granted_at = time.monotonic_ns()
            one.send(Kind.GRANT, messages.NUMBER.pack(one.granted))
    return not free and all(one.at_limit for one in workers)
