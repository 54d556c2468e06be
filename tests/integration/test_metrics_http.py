"""Metrics over HTTP, served bounded and apart: what scrapers do concerns nobody but them."""

from __future__ import annotations

import asyncio
import gzip
import re
import socket
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import psutil
import pytest
from prometheus_client import CollectorRegistry, Gauge

from feedcore_pb.v1 import feed_pb2
from feedcore_server import limits, metrics_http
from feedcore_server.metrics_http import MetricsServer
from tests.support.scrape import scrape
from tests.support.server import ServerProcess

PATIENCE_S = 30.0
REQUEST = b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n"


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[MetricsServer, tuple[str, int]]]:
    """With two gauges; and the address."""
    registry = CollectorRegistry()
    Gauge("one", "The only one.", registry=registry).set(7)
    Gauge("other", "The other one.", registry=registry).set(8)
    server = MetricsServer(registry)
    listener = metrics_http.listen("127.0.0.1", 0)
    address = listener.getsockname()
    await server.start(listener)
    try:
        yield server, address
    finally:
        await server.stop()


def asked(address: tuple[str, int], raw: bytes) -> bytes:
    """All that comes back."""
    with socket.create_connection(address, PATIENCE_S) as peer:
        peer.sendall(raw)
        answer = b""
        while data := peer.recv(65_536):
            answer += data
    return answer


async def ask(address: tuple[str, int], raw: bytes) -> tuple[str, bytes]:
    """(status line, body)."""
    head, _, body = (await asyncio.to_thread(asked, address, raw)).partition(b"\r\n\r\n")
    return head.split(b"\r\n")[0].decode(), body


def until(condition: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.01)


async def test_metrics_are_read_with_get_and_nothing_else() -> None:
    async with serving() as (_, address):
        status, body = await ask(address, REQUEST)
        assert status == "HTTP/1.1 200 OK" and b"one 7.0" in body and b"other 8.0" in body
        _, body = await ask(address, REQUEST.replace(b"/metrics", b"/metrics?name[]=one"))
        assert b"one 7.0" in body and b"other" not in body
        zipped = REQUEST.replace(b"Host: here", b"Accept-Encoding: gzip")
        assert b"one 7.0" in gzip.decompress((await ask(address, zipped))[1])
        assert (await ask(address, REQUEST.replace(b"GET", b"HEAD"))) == ("HTTP/1.1 200 OK", b"")
        assert "405" in (await ask(address, REQUEST.replace(b"GET", b"POST")))[0]
        assert "400" in (await ask(address, b"nonsense\r\n\r\n"))[0]
        many = b"".join(b"a%d: b\r\n" % n for n in range(200))
        assert "400" in (await ask(address, b"GET / HTTP/1.1\r\n" + many + b"\r\n"))[0]
        long = b"GET / HTTP/1.1\r\na: " + bytes(limits.METRICS_HEADER_BYTES_MAX).replace(
            b"\0", b"x"
        )
        assert "431" in (await ask(address, long + b"\r\n\r\n"))[0]


@pytest.mark.parametrize("raw", [b"", b"GET /metrics HT", REQUEST], ids=["none", "half", "unread"])
async def test_who_is_slow_is_cut_off(monkeypatch: pytest.MonkeyPatch, raw: bytes) -> None:
    monkeypatch.setattr(limits, "METRICS_REQUEST_S", 0.3)
    monkeypatch.setattr(limits, "METRICS_REPLY_S", 0.3)
    async with serving() as (server, address):
        began_s = time.monotonic()
        with socket.create_connection(address, PATIENCE_S) as peer:
            peer.sendall(raw)
            await asyncio.to_thread(until, lambda: server.connections == 1, "it does not come")
            await asyncio.to_thread(until, lambda: server.connections == 0, "it is not cut off")
        assert time.monotonic() - began_s >= 0.3


async def test_the_oldest_makes_room_for_the_newest() -> None:
    async with serving() as (_, address):
        slow = [
            await asyncio.open_connection(*address) for _ in range(limits.METRICS_CONNECTIONS_MAX)
        ]
        assert (await ask(address, REQUEST))[0] == "HTTP/1.1 200 OK"
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(slow[0][0].readexactly(1), PATIENCE_S)
        for _, writer in slow:
            writer.close()


# --- a real server --------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    data = tmp_path_factory.mktemp("metrics") / "data"
    with ServerProcess(data, "--metrics", "127.0.0.1:0") as started:
        yield started


def address_of(server: ServerProcess) -> tuple[str, int]:
    (found,) = re.findall(r"feedcore metrics on http://([\d.]+):(\d+)/", "".join(server.lines))
    return found[0], int(found[1])


def child(server: ServerProcess, module: str) -> psutil.Process:
    (found,) = [
        one
        for one in psutil.Process(server.process.pid).children()
        if any(module in word for word in one.cmdline())
    ]
    return found


def test_slow_scrapers_take_nothing_from_the_acceptor(server: ServerProcess) -> None:
    supervisor = psutil.Process(server.process.pid)
    before = (supervisor.num_threads(), supervisor.num_fds())
    slow = [socket.create_connection(address_of(server), PATIENCE_S) for _ in range(300)]
    try:
        for peer in slow:
            try:
                peer.sendall(b"GET /metrics HTTP/1.1\r\nA: ")
            except OSError:  # it has made room for another
                continue
        server.feed.GetFeed(feed_pb2.GetFeedRequest(user_id=1), timeout=PATIENCE_S)
        assert scrape(server)
        assert (supervisor.num_threads(), supervisor.num_fds()) == before
        exporter = child(server, "processes.exporter")
        assert exporter.num_fds() < limits.METRICS_CONNECTIONS_MAX + 40
    finally:
        for peer in slow:
            peer.close()


def test_metrics_come_back_at_the_same_address(server: ServerProcess) -> None:
    worker, exporter = child(server, "processes.worker"), child(server, "processes.exporter")
    worker.kill()
    exporter.kill()

    def counted() -> bool:
        try:
            found = scrape(server)
        except (OSError, urllib.error.URLError):
            return False
        return found.get(("feedcore_restarts_total", (("role", "api"),))) == 1

    until(counted, "the restart of the worker is not counted")
    assert child(server, "processes.exporter").pid != exporter.pid
    roles = {labels for name, labels in scrape(server) if name == "feedcore_processes"}
    assert roles == {(("role", "api"),), (("role", "fanout"),)}, "it does not count itself"
