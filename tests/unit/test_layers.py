"""What a kernel lacks of the sandbox, asked without sealing anything: the same that a sealed worker reports."""

import errno
import os
from collections.abc import Callable, Mapping

from ixy_vfio_locks import rights, seccomp

from ixy_vfio.core import layers
from tests.attack.test_evil_worker import layers as of_a_worker


def told(answers: Mapping[int, int], ask: Callable[[], str]) -> str:
    """What `ask` says in a process whose kernel answers these system calls with these errors."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            rights.no_new_privileges()
            rules = [seccomp.Rule(number, (), seccomp.ERRNO | error) for number, error in answers.items()]
            seccomp.install(seccomp.program(rules, seccomp.ALLOW))
            os.write(writer, ask().encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        said = answer.read()
    os.waitpid(pid, 0)
    return said


def names() -> str:
    return " ".join(sorted(layers.missing()))


def test_it_agrees_with_a_worker_that_was_sealed() -> None:
    assert sorted(layers.missing()) == sorted(text.split(":")[0] for text in of_a_worker().missing)


def test_what_a_kernel_lacks() -> None:
    here = set(layers.missing())
    assert told({}, names) == " ".join(sorted(here))
    assert told({462: errno.ENOSYS}, names) == " ".join(sorted(here | {"mseal"}))
    assert told({317: errno.ENOSYS}, names) == " ".join(sorted(here))  # the older call is as good
    assert told({317: errno.ENOSYS, 157: errno.EPERM}, names) == " ".join(sorted(here | {"seccomp"}))
    newer = {"landlock-network", "landlock-scope"}  # said by the one word: it has none of them
    assert told({444: errno.EOPNOTSUPP}, names) == " ".join(sorted(here - newer | {"landlock"}))
    assert told({444: errno.EOPNOTSUPP}, lambda: layers.missing()["landlock"]) == "Operation not supported"
