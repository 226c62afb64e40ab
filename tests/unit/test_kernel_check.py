"""Kernels that cannot be: refused in one line, before anything is touched; and where compiled code comes from."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ixy_vfio.core.errors import UsageError
from ixy_vfio.datapath import kernels
from ixy_vfio.datapath.compile import check


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("def k(packet, length):\n    return open('x')\n", "does not compile"),
        ("def k(packet, length):\n    packet[0] = 1\n", "it must return True, False or a verdict, not none"),
        ("def k(packet):\n    return True\n", "packet, length"),
        ("class k:\n    pass\n", "packet, length"),
        ("def other(packet, length):\n    return True\n", "no function k"),
        ("import nothing_of_the_kind\n", "ModuleNotFoundError"),
        ("def k(:\n", "SyntaxError"),
        ("def k(packet, length, meta, more):\n    return True\n", "or (packet, length, meta)"),
        ("def k(packet, length, meta):\n    return meta.colour == 0\n", "does not compile"),
        ("def k(packet, length, meta):\n    return meta\n", "it must return True, False or a verdict, not Meta"),
    ],
)
def test_a_kernel_that_cannot_be_is_refused_in_one_line(tmp_path: Path, source: str, says: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(source)
    with pytest.raises(UsageError) as caught:
        check(kernels.load(f"{path}:k"))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_second_process_loads_the_loop_from_the_cache(tmp_path: Path) -> None:
    program = (
        "from ixy_vfio.datapath import kernels; from ixy_vfio.datapath.compile import forwarding_loop\n"
        "from ixy_vfio.datapath.loop import Formats\n"
        "from ixy_vfio.drivers.ixgbe.format import FORMAT\n"
        "print(sum(forwarding_loop(Formats(FORMAT, FORMAT), kernels.load('none')).stats.cache_hits.values()))"
    )
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    hits = [
        subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True).stdout
        for _ in range(2)
    ]
    assert hits == [b"0\n", b"1\n"]
