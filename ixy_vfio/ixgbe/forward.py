"""The fused loop: receive, the application's kernel, send, for thousands of batches per return to Python.

`loop_for(kernel)` compiles the loop with the kernel inside. A kernel is a plain function

    kernel(packet, length) -> bool        True: send it, False: drop it

`packet` is a checked uint8 array of the bytes in the packet's first buffer (all of them up to 2048), writable;
`length` is that of the whole packet.
"""

# mypy: disable-error-code="type-arg"

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ixy_vfio.core.compiled import compiled, inlined, rebound
from ixy_vfio.core.pool import DATA, HEADROOM, STRIDE, give_packet, pool_at
from ixy_vfio.core.unsafe import bytes_at, record_at, words32_at
from ixy_vfio.ixgbe.datapath import BLOCK, QUEUE, poll, reclaim, send

U = np.uint64

LOOP = np.dtype(
    [
        ("a", "<u8"),  # addresses of two queue pairs; what is received on one is sent on the other
        ("b", "<u8"),
        ("both", "<u8"),  # 1: both directions, 0: only what a receives
        ("batch", "<u8"),  # packets per step
        ("widest", "<u8"),  # descriptors that the longest packet takes
        ("indices", "<u8"),  # addresses of uint32[batch] each
        ("lengths", "<u8"),
        ("rounds", "<u8"),  # how often to poll each queue before returning
        ("patience", "<u8"),  # return after this many rounds in a row without a packet
        ("limit", "<u8"),  # return when so many packets have been received in all; 0: no limit
        ("received", "<u8"),  # packets received so far
    ]
)


def kernel(packet: Any, length: Any) -> bool:
    """Stand-in for the application's kernel; `loop_for` puts the real one here."""
    raise NotImplementedError


def _work(rx: Any, pool: Any, indices: Any, lengths: Any, count: Any) -> Any:
    """Run the kernel over a batch; packets that it refuses are freed. Returns how many are left, in front."""
    kept = U(0)
    for begin in range(U(0), count, U(BLOCK)):
        block = min(count - begin, U(BLOCK))
        index_in = words32_at(indices + U(4) * begin, BLOCK)
        length_in = words32_at(lengths + U(4) * begin, BLOCK)
        index_out = words32_at(indices + U(4) * kept, BLOCK)
        length_out = words32_at(lengths + U(4) * kept, BLOCK)
        here = U(0)
        for i in range(block):
            index = U(index_in[i])
            length = U(length_in[i])
            if index >= pool.capacity:
                raise IndexError("buffer index outside the pool")
            packet = bytes_at(pool.packets + index * U(STRIDE) + U(HEADROOM), min(length, U(DATA)))
            if kernel(packet, length):
                index_out[here] = np.uint32(index)
                length_out[here] = np.uint32(length)
                here += U(1)
            else:
                give_packet(pool, index, length)
        kept += here
    rx.refused += count - kept
    return kept


def _step(loop: Any, source: Any, target: Any) -> Any:
    """One batch from `source` to `target`.

    No more is received than `target` has room for: what has to be dropped then, the receiving device drops, and counts.
    """
    pool = pool_at(source.pool)
    reclaim(target.tx, pool)
    wanted = loop.batch
    room = target.tx.size - U(1) - target.tx.used
    if room < wanted * loop.widest:
        wanted = room // loop.widest
    if loop.limit != U(0):
        wanted = min(wanted, loop.limit - loop.received)
    count = poll(source.rx, pool, loop.indices, loop.lengths, wanted)
    if count != U(0):
        loop.received += count
        kept = _work(source.rx, pool, loop.indices, loop.lengths, count)
        sent = send(target.tx, pool, loop.indices, loop.lengths, kept)
        if sent != kept:
            target.tx.no_room += kept - sent
            indices = words32_at(loop.indices, kept)
            lengths = words32_at(loop.lengths, kept)
            for i in range(sent, kept):
                give_packet(pool, indices[i], lengths[i])
    return count


def _loop(state: Any) -> Any:
    """Run until the rounds, the patience or the limit is used up; returns the packets received."""
    loop = state[0]
    a = record_at(loop.a, QUEUE)
    b = record_at(loop.b, QUEUE)
    before = loop.received
    idle = U(0)
    for _ in range(loop.rounds):
        count = _step(loop, a, b)
        if loop.both != U(0):
            count += _step(loop, b, a)
        idle = U(0) if count != U(0) else idle + U(1)
        if idle >= loop.patience or (loop.limit != U(0) and loop.received >= loop.limit):
            break
    return loop.received - before


def loop_for(function: Callable[..., Any], name: str, *, cache: bool = True) -> Callable[[NDArray[Any]], int]:
    """The loop with `function` as its kernel; `name` tells it apart in the cache. Compiled at the first call."""
    work = inlined(rebound(_work, "work", kernel=inlined(function)))
    step = inlined(rebound(_step, "step", _work=work))
    loop: Callable[[NDArray[Any]], int] = compiled(rebound(_loop, f"loop_{name}", _step=step), cache=cache)
    return loop
