"""The guest of a test: booted once for all tests that ask for the same configuration."""

from collections.abc import Iterator

import pytest

from tests.vm.harness import Config, Guest, Missing


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "vm: boots a QEMU guest")


@pytest.fixture(scope="session")
def guest(request: pytest.FixtureRequest) -> Iterator[Guest]:
    """A running guest; the test says which by `in_guest`. pytest sorts by it, so one guest runs at a time."""
    config: Config = request.param
    try:
        running = Guest(config)
    except Missing as missing:
        pytest.skip(f"no guest: {missing}")
    with running:
        yield running
