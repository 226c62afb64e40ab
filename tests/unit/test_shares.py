"""A packet limit that workers share: exact, wherever the packets come."""

import os
import random
import socket
from collections.abc import Sequence

import pytest

from ixy_vfio.runtime import messages, shares
from ixy_vfio.runtime.child import Worker
from ixy_vfio.runtime.messages import Kind, Share
from ixy_vfio.runtime.page import Page


class Crew:
    """Workers without a process: what each is granted, gives back and takes."""

    def __init__(self, limit: int, count: int) -> None:
        self.limit = limit
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(count)]
        page = Page(2)  # nobody counts
        self.ends = [theirs for _, theirs in pairs]
        self.workers = [
            Worker(os.getpid(), ours, page, None, shares.part(limit, count, index))
            for index, (ours, _) in enumerate(pairs)
        ]
        self.granted = [one.granted or 0 for one in self.workers]
        self.taken, self.returned = [0] * count, [0] * count
        self.questions = 0

    def close(self) -> None:
        for one, end in zip(self.workers, self.ends, strict=True):
            one.connection.close()
            end.close()

    def left(self, index: int) -> int:
        return self.granted[index] - self.returned[index] - self.taken[index]

    def take(self, index: int, packets: int) -> None:
        self.taken[index] += min(packets, self.left(index))

    def report(self, index: int) -> None:
        self.workers[index].share = Share(self.taken[index], self.returned[index])

    def ask(self, kind: Kind, workers: Sequence[Worker]) -> None:
        assert kind is Kind.GIVE_BACK
        for one in workers:
            self.questions += 1
            index = self.workers.index(one)
            left = self.left(index)
            self.returned[index] += left - left // 2
            self.report(index)

    def share(self) -> bool:
        over = shares.used_up(self.limit, self.workers, self.ask)
        for index, end in enumerate(self.ends):
            while True:
                try:
                    message = messages.receive(end, wait=False)
                except BlockingIOError:
                    break
                assert message is not None
                assert message[0] is Kind.GRANT
                (self.granted[index],) = messages.NUMBER.unpack(message[1])
        may = sum(granted - returned for granted, returned in zip(self.granted, self.returned, strict=True))
        assert may <= self.limit
        return over


@pytest.mark.parametrize("count", [1, 2, 3, 16])
@pytest.mark.parametrize("limit", [1, 2, 15, 2000, 10**18])
def test_all_packets_at_one_worker(count: int, limit: int) -> None:
    crew = Crew(limit, count)
    for _ in range(300):
        crew.take(count - 1, limit)
        for index in range(count):
            if crew.left(index) == 0:
                crew.report(index)
        if crew.share():
            break
    assert crew.taken == [0] * (count - 1) + [limit]
    assert crew.questions <= (64 + count) * count  # each time the others keep half; the last packet goes round
    crew.close()


def test_packets_anywhere_and_statistics_that_come_late() -> None:
    for seed in range(50):
        random_ = random.Random(seed)
        limit, count = random_.randrange(1, 5000), random_.randrange(1, 9)
        crew = Crew(limit, count)
        for _ in range(10_000):
            index = random_.randrange(count)
            crew.take(index, random_.randrange(1, 64))
            if crew.left(index) == 0 or random_.random() < 0.1:
                crew.report(index)
            if crew.share():
                break
        assert sum(crew.taken) == limit, seed
        crew.close()
