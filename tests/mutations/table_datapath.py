"""The compiled data path: what a device wrote is checked before it is an index, a length or the end of a loop."""

# ruff: noqa: E501 - the texts of other files

from tests.mutations.row import rows

RECEIVE = "tests/unit/test_datapath_receive.py"
TRANSMIT = "tests/unit/test_datapath_transmit.py"

ROWS = [
    *rows(
        "rings", "ixy_vfio/datapath/rings.py", RECEIVE,
        ("zero_length", "wrong = length == U(0) or length > format.buffer", "wrong = length > format.buffer"),
        ("length_above_buffer", " or length > format.buffer or (not last", " or (not last"),
        ("part_not_full", " or (not last and length != format.buffer)", ""),
        ("shortest", " or rx.chain_length + length < format.shortest", ""),
        ("error_bits", "wrong |= format.wrong(word) or ", "wrong |= "),
        ("longest_chain", "too_long = not last and rx.chain_count + U(1) >= U(CHAIN_LIMIT)", "too_long = False"),
        ("skipping", "    if rx.skipping != U(0):\n", "    if False:\n"),
        ("pool_empty", "if free < U(BLOCK) or free > capacity or", "if free > capacity or"),
        ("pool_index", "outside |= index >= capacity", "pass"),
        ("freed_twice", "if pool.free + U(BLOCK) > pool.capacity or start", "if start", TRANSMIT),
        ("reported", "        if not format.sent(words64_at(tx.ring, U(2) * tx.size), U(2) * report):\n            break\n", "", TRANSMIT),
        ("room", "    if count > room:\n        return U(0)\n", "", TRANSMIT),
        ("send_length", "if length < format.shortest or length > U(CHAIN_LIMIT * DATA):", "if False:", TRANSMIT),
        ("send_index", "        if index >= pool.capacity:\n            raise IndexError(\"buffer index outside the pool\")\n        position", "        position", TRANSMIT),
    ),
    *rows(
        "pool", "ixy_vfio/datapath/pool.py", "tests/unit/test_pool.py",
        ("index", "if U(index) >= pool.capacity:", "if False:"),
        ("chain", "if count > U(CHAIN_LIMIT):", "if False:"),
        ("room", "if not 0 < self.capacity <= room:", "if False:"),
        ("bounds", "if not 0 <= index < self.capacity or not 0 <= length <= DATA:", "if False:"),
        ("closed", "        if not self.capacity:\n            raise UsageError(CLOSED)", "        pass"),
    ),
    *rows(
        "intel", "ixy_vfio/drivers/intel.py", TRANSMIT,
        ("empty_descriptor", "return size - U(1) - used", "return size - used"),
    ),
    *rows(
        "loop", "ixy_vfio/datapath/loop.py", "tests/unit/test_verdict.py",
        ("verdict", "    if verdict != U(RETURN):\n        raise ValueError(WRONG)\n", ""),
        ("verdict_of_a_chain", "    if verdict > U(RETURN):\n        raise ValueError(WRONG)\n", ""),
        ("run_measured_before", "        _stop(record_at(home.feeder, RX))", "        pass"),
        ("length", "if not (source.whole(word) and length - source.shortest <= source.buffer - source.shortest):", "if not source.whole(word):", "tests/unit/test_forward_loop.py"),
    ),
    *rows(
        "page", "ixy_vfio/runtime/page.py", "tests/unit/test_page.py",
        ("sealed", "                fcntl.fcntl(fd, _F_ADD_SEALS, _SEALS)\n", "                pass\n"),
        ("read_only", "Mapping(fd, SIZE, write=False)", "Mapping(fd, SIZE)"),
        ("whole", "            if int(words[0]) == number:\n                break\n", "            break\n"),
        ("finished", "        words[0] = self._number = number  # after the copy: x86-64 keeps the order of stores\n", ""),
        ("tries", "for _ in range(TRIES):", "while True:"),
    ),
]  # fmt: skip
