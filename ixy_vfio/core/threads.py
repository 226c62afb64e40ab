"""Which threads this process has: one, if it is to be sealed.

Landlock, capabilities and no_new_privs are each thread's own, so another one would keep what the first gives up.
"""

import os
import re
import sys
import threading
from pathlib import Path

from ixy_vfio.core.errors import SealError

_STARTERS = re.compile(r"lib(?:scipy_)?(?:openblas|mkl|blis|gomp|iomp|omp|tbb|numexpr|torch)[^/]*\.so")


def require_one(who: str) -> None:
    """SealError unless this thread is the only one; it names the others as well as can be told."""
    others = [int(tid) for tid in os.listdir("/proc/self/task") if int(tid) != threading.get_native_id()]
    if not others:
        return
    names = "; ".join(_name(tid) for tid in others[:4])
    more = f"; {len(others) - 4} more" if len(others) > 4 else ""
    raise SealError(f"{who} cannot be sealed with more than one thread, as another keeps all rights: {names}{more}")


def _name(tid: int) -> str:
    for thread in threading.enumerate():
        if thread.native_id == tid:
            return f"{thread.name} ({_place(thread)})"
    try:
        name = Path(f"/proc/self/task/{tid}/comm").read_text().strip()
    except OSError:
        name = "one that has just ended"
    names = sorted({found.group() for found in _STARTERS.finditer(Path("/proc/self/maps").read_text())})
    libraries = f"; these libraries start threads: {', '.join(names)}" if names else ""
    return f"{name} (not of Python: a library's{libraries})"


def _place(thread: threading.Thread) -> str:
    """The file and line where a thread of Python's began, outside the standard library's module of threads."""
    frame, place = sys._current_frames().get(thread.ident or 0), "its place is not known"
    while frame is not None:
        if frame.f_code.co_filename != threading.__file__:
            place = f"{frame.f_code.co_filename}:{frame.f_code.co_firstlineno}, {frame.f_code.co_name}"
        frame = frame.f_back
    return place
