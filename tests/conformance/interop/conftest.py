"""One server process for each way to be reached, shared by all interop tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.certificates import Authority
from tests.support.testserver import ServerUnderTest
from tests.support.tools import tool
from tests.support.transports import TRANSPORTS


class Served(NamedTuple):
    """The transport's name, where its server listens, and its authority if it does so with TLS."""

    transport: str
    address: str
    ca: Path | None


@pytest.fixture(scope="session", params=[*TRANSPORTS, "native-tls"])
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """TestService on each transport; on the one that has TLS, with it, too."""
    transport, _, tls = request.param.partition("-")
    flags, ca = ["--transport", transport], None
    if tls:
        tool("openssl", "apt-get install openssl")
        authority = Authority(tmp_path_factory.mktemp("tls"))
        certificate, key = authority.issue("server")
        flags += ["--tls-cert", str(certificate), "--tls-key", str(key)]
        ca = authority.certificate
    with ServerUnderTest(*flags) as server:
        yield Served(transport, server.address, ca)
