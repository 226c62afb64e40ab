"""What processes give up: workers, control, the process of a lease."""

# ruff: noqa: E501 - the texts of other files

from tests.mutations.row import rows

LOCKS = "helper/ixy_vfio_locks"
WORKER = "tests/attack/test_evil_worker.py tests/attack/test_protections.py tests/unit/test_runtime_worker.py"

ROWS = [
    *rows(
        "seccomp", f"{LOCKS}/seccomp.py", "tests/unit/test_seccomp.py",
        ("x32", "(_JUMP_AT_LEAST, 0, 1, _X32),\n        (_RETURN, 0, 0, foreign),", "(_JUMP_AT_LEAST, 0, 0, _X32),"),
        ("otherwise", "code.append((_RETURN, 0, 0, otherwise))", "code.append((_RETURN, 0, 0, ALLOW))"),
        ("high_halves", "for half in range(2):", "for half in range(1):"),
    ),
    *rows(
        "rights", f"{LOCKS}/rights.py", "tests/unit/test_locks.py tests/attack/test_protections.py tests/attack/test_evil_helper.py",
        ("no_new_privileges", "prctl(PR_SET_NO_NEW_PRIVS, 1)", "pass"),
    ),
    *rows(
        "landlock", f"{LOCKS}/landlock.py", "tests/unit/test_locks.py tests/attack/test_evil_helper.py tests/attack/test_evil_control.py",
        ("restrict", 'syscall("landlock_restrict_self", _RESTRICT_SELF, ruleset, 0)', "pass"),
    ),
    *rows(
        "worker", "ixy_vfio/runtime/sandbox.py", WORKER,
        ("one_thread", '    threads.require_one("a worker")\n', "", "tests/attack/test_one_thread.py"),
        ("dies_with_control", "calls.prctl(calls.PR_SET_PDEATHSIG, signal.SIGKILL)", "pass", "tests/attack/test_protections.py"),
        ("mappings", "        unmap_all_but(keep)\n", ""),
        ("code", "        freeze_code()\n", ""),
        ("dumps", "        _forbid_dumps()\n", ""),
        ("descriptors", "    _close_all_but(keep_fds)\n", ""),
        ("limits", '    result.attempt("limits", lambda: _limit(in_use + GROWTH))\n', ""),
        ("mseal", "rights.seal_mapping(begin, end - begin)", "pass"),
        ("seccomp", 'lambda: seccomp.install(seccomp.program(worker_rules(*keep_fds))))', "lambda: None)"),
    ),
    *rows(
        "worker_filter", "ixy_vfio/runtime/seccomp.py", "tests/attack/test_evil_worker.py",
        ("one_socket", "socket = (Check(0, WORD, fd), Check(4, ALL, 0))", "socket = (Check(4, ALL, 0),)"),
        ("no_address", "socket = (Check(0, WORD, fd), Check(4, ALL, 0))", "socket = (Check(0, WORD, fd),)"),
        ("one_epoll", "Rule(232, (Check(0, WORD, waker),))", "Rule(232)"),
        ("no_code", "Check(2, ALL & ~_PROT_READ_WRITE, 0), ", ""),
        ("private_memory", ", Check(3, ALL, _MAP_PRIVATE_ANONYMOUS)", ""),
        ("no_mremap", "Rule(25, (), ERRNO | errno.ENOMEM),", "Rule(25),"),
    ),
    *rows(
        "control_filter", "ixy_vfio/runtime/seccomp.py", "tests/attack/test_evil_control.py",
        ("no_code", "Rule(number, (Check(2, _PROT_EXEC, 0),)) for number in (9, 10)", "Rule(number) for number in (9, 10)"),
        ("fcntl", "*(Rule(72, (Check(1, WORD, number),)) for number in _DESCRIPTORS)", "Rule(72)"),
        ("read_only_files", "Rule(257, (Check(2, _OPEN_TO_WRITE, 0),))", "Rule(257)"),
        ("signals", "*(Rule(62, (Check(0, WORD, pid),)) for pid in workers)", "Rule(62)"),
        ("ioctls", "*(Rule(16, (Check(1, WORD, number),)) for number in (*_VFIO_DEVICE, *_TERMINAL))", "Rule(16)"),
    ),
    *rows(
        "control", "ixy_vfio/runtime/control_seal.py", "tests/attack/test_evil_control.py",
        ("one_thread", '    threads.require_one("control")\n', "", "tests/attack/test_one_thread.py"),
        ("landlock", "    result.landlock(_readable(), landlock.ABSTRACT)\n", ""),
        ("seccomp", "lambda: seccomp.install(program)", "lambda: None"),
    ),
    *rows(
        "lease_filter", "helper/ixy_vfio_helper/sandbox.py", "tests/attack/test_evil_helper.py",
        ("no_code", "*_if(9, 2, 0, mask=_PROT_EXEC), *_if(10, 2, 0, mask=_PROT_EXEC),", "*map(Rule, (9, 10)),"),
        ("fcntl", "*_if(72, 1, 1, 2, 3, 4, 36, 37, 1030, 1033),", "Rule(72),"),
        ("undo_ioctls", "*_if(16, 1, *UNDO_IOCTLS, FIONBIO),", "Rule(16),"),
        ("fallocate", "*_if(285, 1, PUNCH_HOLE),", "Rule(285),"),
        ("vfio_ioctls", "*_if(16, 1, VFIO, mask=0xFFFF_FF00), *_if(16, 1, FIOCLEX),", "Rule(16),"),
        ("unix_sockets", "*_if(41, 0, 1)", "Rule(41)"),
        ("last_capability", "            rights.set_capabilities(0)\n        if \"seccomp\"", "            pass\n        if \"seccomp\""),
        ("second_filter", "            _filter(LAST)", "            pass"),
        ("first_filter", '"seccomp": lambda: _filter((*FIRST, *self.more)),', '"seccomp": lambda: None,'),
        ("landlock", '"landlock": lambda: landlock.restrict(self.paths),', '"landlock": lambda: None,'),
    ),
]  # fmt: skip
