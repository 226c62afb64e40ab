"""The memory of a lease: zeroed, sealed, of one lease alone; where devices see it, and how much there may be."""

import fcntl
import mmap
import os
from pathlib import Path

import pytest
from ixy_vfio_helper import memory
from ixy_vfio_helper.protocol import Allocated, Attach, Ended, Hello, List, Memory, Purpose, Refused

from tests.unit.lease_support import A, B, FakeBackend, open_fds, served

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


def test_the_helper_keeps_no_descriptor_of_memory_that_it_passed(tmp_path: Path) -> None:
    with served(FakeBackend(), tmp_path) as client:
        client.ask(Hello())
        client.ask(Attach(A))
        client.ask(List(9))
        before = open_fds()
        for _ in range(50):
            assert isinstance(client.ask(Memory(4096, 1, RINGS)), Allocated)
        client.ask(List(9))  # it closes them after they were passed
        assert open_fds() == before


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
