"""One server process a transport, shared by all interop tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.support.testserver import ServerUnderTest
from tests.support.transports import TRANSPORTS


class Served(NamedTuple):
    """The transport's name, and where its server listens."""

    transport: str
    address: str


@pytest.fixture(scope="session", params=TRANSPORTS)
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    """TestService on the transport."""
    with ServerUnderTest("--transport", request.param) as server:
        yield Served(request.param, server.address)
