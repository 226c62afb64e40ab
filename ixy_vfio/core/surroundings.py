"""What the surroundings of a process can refuse it: one line with the cause and the remedy."""

import errno
import resource

_FULL = (errno.ENOSPC, errno.EDQUOT)


def told(error: BaseException) -> str | None:
    """One line for an error that is the surroundings', not the program's; None for all others."""
    if isinstance(error, MemoryError):
        return _no_memory("")
    if isinstance(error, ImportError):
        return _import(error)
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return _no_process()
    return _system(error) if isinstance(error, OSError) else None


def _system(error: OSError) -> str | None:
    names = " -> ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
    what = f"{names}: " if names else ""
    if error.errno == errno.EMFILE:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return f"{what}no file descriptor is left: this process may have {limit}; allow more (ulimit -n)"
    if error.errno == errno.ENFILE:
        return f"{what}no file descriptor is left on this machine; close programs, or raise sysctl fs.file-max"
    if error.errno == errno.EAGAIN and not names:
        return _no_process()
    if error.errno == errno.ENOMEM:
        return _no_memory(what)
    if error.errno in _FULL:
        return f"{what}{error.strerror}: the file system is full, or a quota is used up; make room"
    if error.errno == errno.EFBIG:
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
        return f"{what}{error.strerror}: this process may write files of {limit} bytes; allow more (ulimit -f)"
    return f"{what}{error.strerror or error}" if names else None


def _no_process() -> str:
    limit = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    allowed = "no limit of the user's" if limit == resource.RLIM_INFINITY else f"ulimit -u is {limit}"
    return f"no more processes can be started here ({allowed}); end some, or allow more (ulimit -u, pids.max)"


def _no_memory(what: str) -> str:
    limits = {"-v": resource.RLIMIT_AS, "-d": resource.RLIMIT_DATA, "-l": resource.RLIMIT_MEMLOCK}
    found = {name: resource.getrlimit(number)[0] for name, number in limits.items()}
    low = [f"ulimit {name} is {size >> 10} KiB" for name, size in found.items() if size != resource.RLIM_INFINITY]
    return f"{what}there is not enough memory ({', '.join(low) or 'no limit is set'}); allow more, or end programs"


def _import(error: ImportError) -> str | None:
    if (error.name or "").partition(".")[0] in ("ixy_vfio", "ixy_vfio_helper", "ixy_vfio_locks", "ixy_vfio_setup"):
        return None
    return f"{error}; a package that ixy-vfio needs cannot be loaded: run scripts/venv again, or allow more memory"
