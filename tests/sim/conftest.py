"""Fixtures: a server for all tests of a module, and a client that owns port 0."""

from collections.abc import Iterator

import pytest

from tests.sim.server_rig import Running
from tests.sim.vfio_client import Client


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    running = Running()
    yield running
    running.close()


@pytest.fixture
def owner(running: Running) -> Iterator[Client]:
    with running.client() as client:
        client.version()
        yield client
    running.eventually(lambda: not running.server.sessions)
