"""Health on the wire: the native transport's fast answers beside ordinary ones, and probes of a
real server while it drains."""

from __future__ import annotations

import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2

from feedcore.clock import SystemClock
from feedcore_server.dispatch import Dispatcher
from feedcore_server.handlers.health import LIVENESS, HealthHandlers
from feedcore_server.registry import Registry
from feedcore_server.transports.native import NativeTransport
from tests.support.rawframes import DATA, GOAWAY, HEADERS, RawPeer, call
from tests.support.scrape import scrape
from tests.support.server import STOP_WITHIN_S, ServerProcess

CHECK = "/grpc.health.v1.Health/Check"
FEED = "feedcore.v1.FeedService"
COUNTED_WITHIN_S = 10.0  # metrics are written once a second
NOTICE = 2**31 - 1  # last stream of the first GOAWAY: calls that come are served
SERVING, NOT_SERVING = b"\x08\x01", b"\x08\x02"


def asked(service: str) -> bytes:
    return health_pb2.HealthCheckRequest(service=service).SerializeToString()


@asynccontextmanager
async def serving(
    fast: bool,
) -> AsyncIterator[tuple[HealthHandlers, NativeTransport, grpc.aio.Channel]]:
    """Health alone on the native transport, with its fast handler or without."""
    health, registry = HealthHandlers(), Registry()
    health.add([FEED])
    descriptor = health_pb2.DESCRIPTOR.services_by_name["Health"]
    registry.add_service(descriptor, health.table(), fast=health.fast_table() if fast else None)
    transport = NativeTransport(Dispatcher(registry, []), SystemClock())
    port = await transport.start("127.0.0.1", 0)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            yield health, transport, channel
        finally:
            await transport.stop(0)


async def answers(fast: bool) -> tuple[list[object], int]:
    """Replies, or status and message, of every question in every state; fast calls counted."""
    seen: list[object] = []
    async with serving(fast) as (health, transport, channel):
        check = channel.unary_unary(CHECK)
        for change in (lambda: None, lambda: health.set_serving(True), health.end):
            change()
            for raw in (
                asked(""),
                asked(FEED),
                asked(LIVENESS),
                asked("nobody"),
                b"\x0a\x00",
                b"\xff",
            ):
                try:
                    seen.append(await check(raw, timeout=10))
                except grpc.aio.AioRpcError as error:
                    seen.append((error.code().name, error.details()))
        return seen, transport.worker.methods[CHECK.encode()].fast_calls


async def test_fast_answers_are_those_of_the_ordinary_handler() -> None:
    ordinary, none = await answers(fast=False)
    quick, count = await answers(fast=True)
    assert quick == ordinary and none == 0
    assert count == 3 * 3, "known services in each state; the rest is declined"
    unknown = ("NOT_FOUND", "service: not served here; list the services with reflection")
    assert ordinary[:5] == [NOT_SERVING, NOT_SERVING, SERVING, unknown, NOT_SERVING]
    assert ordinary[6:9] == [SERVING] * 3 and ordinary[12:15] == [NOT_SERVING, NOT_SERVING, SERVING]


def check(peer: RawPeer, service: str, stream_id: int) -> bytes:
    """The reply's message, on a connection that answers nothing the server sends."""
    peer.sock.sendall(call(CHECK, asked(service), stream_id))
    while True:
        kind, _, stream, payload = peer.read()
        assert kind in (HEADERS, DATA) or stream == 0
        if kind == DATA and stream == stream_id:
            return payload[5:]


def test_a_draining_worker_is_alive_and_not_ready(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "data", "--metrics", "127.0.0.1:0") as server:
        peer = RawPeer.connect(server.address)
        assert [check(peer, name, 2 * n + 1) for n, name in enumerate(("", FEED, LIVENESS))] == [
            SERVING
        ] * 3
        server.process.send_signal(signal.SIGTERM)
        _, _, _, payload = peer.until(GOAWAY)
        assert int.from_bytes(payload[:4], "big") == NOTICE
        # The PING that came with it stays unanswered, so that calls are still served for a while.
        assert check(peer, LIVENESS, 7) == SERVING
        assert check(peer, "", 9) == NOT_SERVING
        peer.sock.close()
        assert server.process.wait(STOP_WITHIN_S) == 0


def test_probes_are_counted_and_not_logged(tmp_path: Path) -> None:
    """Fast calls pass no interceptor: the transport counts them, and no line is written."""
    with ServerProcess(tmp_path / "data", "--metrics", "127.0.0.1:0") as server:
        probe = server.channel.unary_unary(CHECK)
        for _ in range(5):
            assert probe(asked(LIVENESS), timeout=10) == SERVING
        with pytest.raises(grpc.RpcError):
            probe(asked("nobody"), timeout=10)
        counted = ("feedcore_calls_total", (("operation", "HealthCheck"), ("status", "ok")))
        refused = ("feedcore_calls_total", (("operation", "HealthCheck"), ("status", "not_found")))
        deadline_s = time.monotonic() + COUNTED_WITHIN_S
        while (found := scrape(server)).get(counted) != 5:
            assert time.monotonic() < deadline_s, found
            time.sleep(0.05)
        assert found[refused] == 1
        assert server.stop() == 0
        server.reader.join(STOP_WITHIN_S)  # what it has written is read to the end
        lines = [line for line in server.lines if '"HealthCheck"' in line]
        assert len(lines) == 1 and '"not_found"' in lines[0]
