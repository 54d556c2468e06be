"""Connections are spread evenly over the workers: the acceptor gives each to the worker that has
the fewest, so that the counts of two workers differ by one at most.

Counted by the workers themselves (feedcore_connections), a metric that each writes once a second.
benchmarks/transport/spread.py measures the same beside SO_REUSEPORT.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from feedcore_pb.v1 import admin_pb2, admin_pb2_grpc
from tests.support.certificates import Authority
from tests.support.rawframes import RawPeer
from tests.support.scrape import scrape
from tests.support.server import ServerProcess

WRITTEN_WITHIN_S = 20.0  # a second, and what a busy machine adds


@pytest.fixture(scope="module", params=[2, 4])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    data_dir = tmp_path_factory.mktemp("spread") / "data"
    with ServerProcess(data_dir, "--metrics", "127.0.0.1:0", workers=request.param) as running:
        yield running


@pytest.fixture
def opened() -> Iterator[list[RawPeer]]:
    """Connections of a test; closed afterwards."""
    peers: list[RawPeer] = []
    yield peers
    for peer in peers:
        peer.sock.close()


def counts(server: ServerProcess) -> list[int]:
    """Open connections of each worker."""
    found = scrape(server)
    return [int(value) for (name, _), value in found.items() if name == "feedcore_connections"]


def spread(server: ServerProcess, total: int) -> list[int]:
    """Connections of each worker, as soon as every worker has told and there are so many in all."""
    deadline_s = time.monotonic() + WRITTEN_WITHIN_S
    workers = int(scrape(server)[("feedcore_processes", (("role", "api"),))])
    while len(found := counts(server)) != workers or sum(found) != total:
        assert time.monotonic() < deadline_s, f"{found}, and not {total} in all"
        time.sleep(0.05)
    return found


def connect(server: ServerProcess, number: int) -> list[RawPeer]:
    """Connections that come one right after the other; each is settled in the end."""
    peers = [RawPeer.connect(server.address) for _ in range(number)]
    for peer in peers:
        peer.settle()
    return peers


@pytest.mark.parametrize("number", [4, 8, 16, 64])
def test_fresh_connections_are_spread_evenly(
    server: ServerProcess, opened: list[RawPeer], number: int
) -> None:
    spread(server, 0)
    opened += connect(server, number)
    found = spread(server, number)
    assert max(found) - min(found) <= 1, found


def test_new_connections_fill_the_emptier_worker(
    server: ServerProcess, opened: list[RawPeer]
) -> None:
    spread(server, 0)
    opened += connect(server, 32)
    workers = len(spread(server, 32))
    # Every worker had its turn in the same order, so that these are those of the first ones.
    leaving = [peer for number, peer in enumerate(opened) if number % workers < workers // 2]
    opened[:] = [peer for peer in opened if peer not in leaving]
    for peer in leaving:
        peer.sock.close()
    uneven = spread(server, len(opened))
    assert max(uneven) - min(uneven) > 1, f"{uneven}: nothing to fill"
    opened += connect(server, len(leaving))
    found = spread(server, 32)
    assert max(found) - min(found) <= 1, found


def test_status_shows_the_spread(server: ServerProcess, opened: list[RawPeer]) -> None:
    spread(server, 0)
    with grpc.insecure_channel(
        server.address, options=[("grpc.use_local_subchannel_pool", 1)]
    ) as channel:
        admin = admin_pb2_grpc.AdminServiceStub(channel)
        admin.GetStatus(admin_pb2.GetStatusRequest())
        opened += connect(server, 7)
        workers = len(spread(server, 8))
        status = admin.GetStatus(admin_pb2.GetStatusRequest())
        (detail,) = [one.detail for one in status.components if one.name == "connections"]
    assert detail == f"8 open; by worker: {', '.join([str(8 // workers)] * workers)}"


def test_handshakes_under_way_count(tmp_path: Path) -> None:
    """Callers that are far away: each handshake is still under way when the next one connects."""
    authority = Authority(tmp_path / "authority")
    certificate, key = authority.issue("server")
    flags = ["--tls-certificate", str(certificate), "--tls-key", str(key)]
    client = ssl.create_default_context(cafile=authority.certificate)
    client.set_alpn_protocols(["h2"])
    with (
        ServerProcess(tmp_path / "data", *flags, "--metrics", "127.0.0.1:0", workers=2) as running,
        contextlib.ExitStack() as stack,
    ):
        host, _, port = running.address.rpartition(":")
        plain = []
        for _ in range(8):
            plain.append(stack.enter_context(socket.create_connection((host, int(port)))))
            time.sleep(0.1)  # the worker has reported meanwhile
        for one in plain:
            secured = stack.enter_context(client.wrap_socket(one, server_hostname=host))
            RawPeer(secured).settle()
        found = spread(running, 8)
        assert max(found) - min(found) <= 1, found
