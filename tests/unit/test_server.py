"""The listening process: who is given a lease, in which place of whose account, and what a lease has of other users."""

import os
import socket
from typing import Any

import pytest
from ixy_vfio_helper.memory import PLACES, Account, account_page
from ixy_vfio_helper.monitor import Refusal
from ixy_vfio_helper.policy import Grant
from ixy_vfio_helper.server import Server

ME, OTHER = 1000, 1001
GRANTS = {uid: Grant(uid, frozenset({"0000:03:00.0"}), 1 << 20, 2) for uid in (ME, OTHER)}


class Stopped(Exception):
    """In the place of the sandbox: what a lease has of its parent is settled by then."""

    def begin(self) -> list[str]:
        raise self


def server(sandbox: Any = None) -> Server:
    nothing: Any = None
    return Server(nothing, lambda: GRANTS, nothing, nothing, sandbox)


def test_who_is_not_in_the_policy_gets_nothing() -> None:
    assert server()._grant(ME) == GRANTS[ME]
    assert server()._grant(4711) == "the helper's policy gives nothing to uid 4711; ask the administrator"


def test_a_user_has_as_many_leases_as_the_policy_says() -> None:
    one = server()
    one._leases.update({1: (ME, 0), 2: (OTHER, 0)})
    assert one._grant(ME) == GRANTS[ME]
    one._leases[3] = ME, 1
    assert one._grant(ME) == "uid 1000 has 2 leases already, as many as the policy allows; end one first"
    assert one._grant(OTHER) == GRANTS[OTHER]


def test_a_place_in_which_a_lease_left_bytes_is_no_other_leases() -> None:
    """Nor is that of a lease that goes on. When there is none left, the user is told."""
    one = server()
    one._leases[1] = ME, 0
    assert one._account(ME).place == 1
    Account(one._accounts[ME], 1).take(4096, 8192)
    assert one._account(ME).place == 2
    assert one._account(OTHER).place == 0
    for place in range(2, PLACES):
        Account(one._accounts[ME], place).take(1, 1 << 20)
    with pytest.raises(Refusal, match="processes of earlier leases died with memory"):
        one._account(ME)


def test_a_lease_has_no_account_of_another_user() -> None:
    one = server(Stopped())
    one._accounts.update({ME: account_page(), OTHER: account_page()})
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            one._serve_lease(theirs, GRANTS[ME], one._account(ME), -1, ())
        except Stopped:
            status = 0 if (one._accounts[ME].closed, one._accounts[OTHER].closed) == (False, True) else 2
        finally:
            os._exit(status)
    ours.close()
    theirs.close()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
