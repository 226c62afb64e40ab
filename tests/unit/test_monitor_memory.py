"""The memory of a lease: zeroed, sealed, of one lease alone; where devices see it, and how much there may be."""

import fcntl
import mmap
import os
from pathlib import Path

import pytest
from ixy_vfio_helper import memory, monitor, protocol
from ixy_vfio_helper.memory import Account, account_page
from ixy_vfio_helper.protocol import Allocated, Attach, End, Ended, Hello, List, Memory, Purpose, Refused

from tests.unit.lease_support import A, B, C, FakeBackend, open_fds, served

RINGS, PACKETS = Purpose.RINGS, Purpose.PACKETS
WINDOW = 0x10_0000_0000


def test_memory_is_zeroed_sealed_and_no_two_leases_share_a_page(tmp_path: Path) -> None:
    with served(FakeBackend(), tmp_path) as client:
        client.ask(Hello())
        client.ask(Attach(A))
        made, fds = client.ask_fds(Memory(10000, 1, RINGS))
        assert made == Allocated(WINDOW, 12288, 4096, "")
        fd = fds[0]
        assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) == fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        assert os.fstat(fd).st_size == 12288
        assert os.fstat(fd).st_blocks * 512 == 12288  # every page is there already
        for size in (0, 4096, 16384):
            with pytest.raises(PermissionError):
                os.ftruncate(fd, size)
        with pytest.raises(PermissionError):
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
        with mmap.mmap(fd, 12288) as mapped:
            assert mapped[:] == bytes(12288)
            mapped[:4] = b"mine"
        other, others = client.ask_fds(Memory(10000, 1, RINGS))
        assert isinstance(other, Allocated)
        assert os.pread(others[0], 12288, 0) == bytes(12288)
        assert os.fstat(others[0]).st_ino != os.fstat(fd).st_ino
        for each in (fd, others[0]):
            os.close(each)


def test_the_helper_keeps_one_descriptor_of_memory_until_the_end(tmp_path: Path) -> None:
    start = open_fds()
    with served(FakeBackend(), tmp_path) as client:
        client.ask(Hello())
        client.ask(Attach(A))
        client.ask(List(9))
        before = open_fds()
        for _ in range(50):
            assert isinstance(client.ask(Memory(4096, 1, RINGS)), Allocated)
        client.ask(List(9))  # it closes what it passed after it was passed
        assert open_fds() == before + 50
    assert open_fds() == start


def blocks(fd: int) -> int:
    return os.fstat(fd).st_blocks * 512


def test_memory_is_given_back_whoever_keeps_it(tmp_path: Path) -> None:
    """After the devices have lost it; what is touched then is a new page, of who touched it."""
    backend = FakeBackend()
    seen: dict[str, int] = {}
    with served(backend, tmp_path) as client:
        client.ask(Hello())
        client.ask(Attach(A))
        kept = [client.ask_fds(Memory(size, 1, purpose))[1][0] for size, purpose in ((8192, RINGS), (12288, PACKETS))]
        backend.heard = lambda entry: seen.update({entry.split()[0]: sum(map(blocks, kept))})
        mapped = mmap.mmap(kept[0], 8192)
        mapped[:] = b"x" * 8192
        client.tell(End())
        assert client.ended() == "the client ended it"
    assert seen == {"bus_master_off": 20480, "unmap": 20480, "close": 0}
    assert [blocks(fd) for fd in kept] == [0, 0]
    assert mapped[:1] == b"\0"
    assert [blocks(fd) for fd in kept] == [4096, 0]
    assert os.fstat(kept[0]).st_size == 8192
    mapped.close()
    for fd in kept:
        os.close(fd)


def test_a_client_whose_lease_was_ended_may_look_at_its_memory_until_it_leaves(tmp_path: Path) -> None:
    backend = FakeBackend()
    with served(backend, tmp_path) as client:
        client.ask(Hello())
        client.ask(Attach(A))
        (fd,) = client.ask_fds(Memory(8192, 1, RINGS))[1]
        os.pwrite(fd, b"evidence", 0)
        os.write(backend.sessions[0].speak, b"!")
        received = protocol.receive(client.connection, protocol.REPLIES)
        assert received is not None
        assert received[1] == Ended("the device has trouble")
        assert backend.log[-1] == f"close {A}"  # the device has gone already
        assert os.pread(fd, 8, 0) == b"evidence"
    assert blocks(fd) == 0
    os.close(fd)


def test_it_may_not_look_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "LOOK", 0.1)
    backend = FakeBackend()
    with served(backend, tmp_path) as client:
        client.ask(Hello())
        client.ask(Attach(A))
        (fd,) = client.ask_fds(Memory(8192, 1, RINGS))[1]
        os.write(backend.sessions[0].speak, b"!")
        client.tell(Hello())  # nor does it help to talk
        assert client.wait() == "the device has trouble"
        assert blocks(fd) == 0
    os.close(fd)


def test_all_leases_of_a_user_share_one_limit(tmp_path: Path) -> None:
    page, limit = account_page(), 1 << 20
    with (
        served(FakeBackend(), tmp_path, account=Account(page, 0)) as one,
        served(FakeBackend(), tmp_path, account=Account(page, 63)) as two,
        served(FakeBackend(), tmp_path, uid=1001, devices=(C,)) as stranger,
    ):
        for client, device in ((one, A), (two, B), (stranger, C)):
            client.ask(Hello())
            client.ask(Attach(device))
        assert isinstance(one.ask(Memory(limit - 8192, 1, PACKETS)), Allocated)
        refused = Refused("memory: 8193 bytes asked, 8192 of 1048576 left to you")
        assert [client.ask(Memory(8193, 1, RINGS)) for client in (one, two)] == [refused, refused]
        assert isinstance(two.ask(Memory(8192, 1, RINGS)), Allocated)
        assert one.ask(Memory(1, 1, RINGS)) == Refused("memory: 1 bytes asked, 0 of 1048576 left to you")
        assert isinstance(stranger.ask(Memory(limit, 1, RINGS)), Allocated)
        one.tell(End())
        one.ended()
        assert isinstance(two.ask(Memory(limit - 8192, 1, RINGS)), Allocated)
    assert not any(Account(page).counts())
    page.close()


def test_memory_that_cannot_be_given_back_stays_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    account = Account()

    def failing(made: memory.Memory) -> None:
        raise OSError(5, "injected")

    monkeypatch.setattr(memory, "give_back", failing)
    with served(FakeBackend(), tmp_path, account=account) as client:
        client.ask(Hello())
        client.ask(Attach(A))
        client.ask(Memory(4096, 1, RINGS))
    assert account.counts() == [4096, *[0] * 63]


def test_of_two_that_ask_at_once_never_both_get_what_is_left() -> None:
    page, limit = account_page(), 1000

    def ask(place: int) -> None:
        account, taken = Account(page, place), 0
        for _ in range(20000):
            if account.take(1, limit):
                taken += 1
                assert sum(account.counts()) <= limit + 3  # what the other three are only trying
        assert account.counts()[place] == taken

    children = []
    for place in range(4):
        children.append(os.fork())
        if not children[-1]:
            try:
                ask(place)
            except BaseException:
                os._exit(1)
            os._exit(0)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 4
    assert 0 < sum(Account(page).counts()) <= limit
    page.close()


def test_packets_without_hugepages_get_small_pages_and_the_answer_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = os.memfd_create

    def no_hugepages(name: str, flags: int) -> int:
        if flags & os.MFD_HUGETLB:
            raise OSError(12, "Cannot allocate memory")
        return create(name, flags)

    monkeypatch.setattr(os, "memfd_create", no_hugepages)
    with served(FakeBackend(), tmp_path, memory=64 << 20) as client:
        client.ask(Hello())
        client.ask(Attach(A))
        made = client.ask(Memory(3 << 20, 1, PACKETS))
        note = "4 KiB pages: no 2 MiB hugepages (Cannot allocate memory); reserve some in /proc/sys/vm/nr_hugepages"
        assert made == Allocated(WINDOW, 3 << 20, 4096, note)


def test_without_memory_a_request_is_refused_before_a_page_is_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page that is not there kills who touches it."""

    def full(fd: int, offset: int, size: int) -> None:
        assert os.fstat(fd).st_blocks == 0
        raise OSError(28, "No space left on device")

    backend = FakeBackend()
    with served(backend, tmp_path) as client:
        client.ask(Hello())
        client.ask(Attach(A))
        client.ask(List(9))  # it has closed what it passed
        before = open_fds()
        with monkeypatch.context() as patched:
            patched.setattr(os, "posix_fallocate", full)
            assert client.ask(Memory(4096, 1, RINGS)) == Refused("memory: No space left on device; ask for less")
        assert open_fds() == before
        assert client.ask(Memory(1 << 20, 1, RINGS)) == Allocated(WINDOW, 1 << 20, 4096, "")  # nothing was used up
    assert backend.log[1] == f"map {A} {WINDOW:#x} 0x100000"


def test_hugepages_count_whole_against_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create = os.memfd_create
    huge = os.MFD_HUGETLB | memory.MFD_HUGE_2MB
    monkeypatch.setattr(os, "memfd_create", lambda name, flags: create(name, flags & ~huge))  # small pages do as well
    with served(FakeBackend(), tmp_path, memory=5 << 20) as client:
        client.ask(Hello())
        client.ask(Attach(A))
        assert client.ask(Memory((2 << 20) + 1, 1, PACKETS)) == Allocated(WINDOW, 4 << 20, 2 << 20, "")
        # There is no room for a whole hugepage any more, but for this there is.
        assert client.ask(Memory(1 << 20, 1, PACKETS)) == Allocated(WINDOW + (6 << 20), 1 << 20, 4096, "")


def test_one_iova_in_all_devices_of_a_request_from_ranges_that_both_have(tmp_path: Path) -> None:
    backend = FakeBackend()
    backend.ranges[A] = [(0, WINDOW + 0x1000), (0x20_0000_1000, 0x30_0000_0000)]
    backend.ranges[B] = [(0x18_0000_0000, 0x20_0060_1000), (0x28_0000_0000, 0x80_0000_0000)]
    with served(backend, tmp_path) as client:
        client.ask(Hello())
        client.ask(Attach(A))
        client.ask(Attach(B))
        # The first place that both have, 2 MiB aligned, holds 0x401000 bytes: not the second mapping behind the first.
        assert client.ask(Memory(0x1000, 0b11, PACKETS)) == Allocated(0x20_0020_0000, 0x1000, 0x1000, "")
        assert client.ask(Memory(0x2000, 0b11, PACKETS)) == Allocated(0x28_0000_0000, 0x2000, 0x1000, "")
        assert client.ask(Memory(0x1000, 0b10, RINGS)) == Allocated(0x28_0040_0000, 0x1000, 0x1000, "")


def test_no_iova_left_is_the_end(tmp_path: Path) -> None:
    backend = FakeBackend()
    backend.ranges[A] = [(0, 0x1000)]
    with served(backend, tmp_path) as client:
        client.ask(Hello())
        client.ask(Attach(A))
        assert client.ask(Memory(0x1000, 1, RINGS)) == Ended("failed: no IOVA left for this memory")
    assert backend.log == [f"open {A}", f"bus_master_off {A}", f"close {A}"]


def test_the_window_stays_below_39_bits_and_leaves_a_gap_after_each_mapping() -> None:
    window = memory.Window()
    everything = [[(0, 1 << 64)]]
    first, second = window.take(1, everything), window.take(2 << 20, everything)
    third = window.take(1, everything)
    assert (first, second, third) == (WINDOW, WINDOW + (4 << 20), WINDOW + (8 << 20))
    with pytest.raises(OSError, match="no IOVA left"):
        window.take(1 << 39, everything)
    assert memory.WINDOW[1] == 1 << 39


def test_every_page_of_new_memory_has_been_touched() -> None:
    """The kernel clears a page when it is touched first; a device may be faster than that."""
    made = memory.allocate(1 << 20, huge=False)
    try:
        assert os.lseek(made.fd, 0, os.SEEK_HOLE) == 1 << 20  # allocated pages that were not touched are holes to this
    finally:
        os.close(made.fd)


def test_what_is_mapped_is_written_down_before_with_the_rights_that_the_device_gets(tmp_path: Path) -> None:
    backend = FakeBackend()
    seen: list[tuple[str, str]] = []  # what was done, and the ledger at that moment

    def heard(entry: str) -> None:
        seen.append((entry, (tmp_path / f"{A}.ledger").read_text()))

    with served(backend, tmp_path) as client:
        client.ask(Hello())
        client.ask(Attach(A))
        backend.heard = heard
        client.ask(Memory(4096, 1, Purpose.RINGS))
        client.ask(Memory(4096, 1, Purpose.READ_ONLY))
        backend.heard = lambda entry: None
        client.ask(End())
    first, second = "0x1000000000 0x1000 rw rings\n", "0x1000400000 0x1000 r read_only\n"
    assert seen == [
        (f"map {A} 0x1000000000 0x1000", first),
        (f"map {A} 0x1000400000 0x1000", first + second),
    ]
    assert (tmp_path / f"{A}.ledger").read_text() == "\n" * len(first + second)
