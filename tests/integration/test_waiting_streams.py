"""Streams that wait, without end and in great numbers, take nothing from calls: budgets of their
own, no task for a watch of health, and an end for streams that never say anything."""

from __future__ import annotations

import asyncio
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from feedcore.clock import SystemClock
from feedcore_pb.v1 import feed_pb2, publish_pb2
from feedcore_server import limits
from feedcore_server.dispatch import Dispatcher
from feedcore_server.handlers.health import HealthHandlers
from feedcore_server.handlers.reflection import ReflectionHandlers
from feedcore_server.processes.open_files import OpenFiles
from feedcore_server.processes.readiness import Readiness
from feedcore_server.registry import Registry
from feedcore_server.transports.native import Bounds, NativeTransport
from tests.support.rawframes import (
    DATA,
    END_STREAM,
    HEADERS,
    PING,
    RST_STREAM,
    RawPeer,
    call,
    frame,
    request_headers,
)
from tests.support.server import ServerProcess

WATCH = "/grpc.health.v1.Health/Watch"
IMPORT = "/feedcore.v1.AdminService/Import"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
SERVING, NOT_SERVING = b"\x08\x01", b"\x08\x02"
PATIENCE_S = 30.0
A_CONNECTION = limits.WAITING_PER_CONNECTION_MAX
# More streams that wait than calls at work may be, on as many connections as that takes.
MANY = 9 * A_CONNECTION
assert MANY > limits.CALLS_PER_WORKER_MAX


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One worker: all streams are its own."""
    with ServerProcess(tmp_path_factory.mktemp("waiting") / "data", workers=1) as started:
        yield started


def seen(peer: RawPeer) -> None:
    """What was sent before has been read, and what it brought about has been sent."""
    peer.sock.sendall(frame(PING, 0, 0, b"seen it?"))
    while peer.until(PING)[3] != b"seen it?":
        continue


def publishes_and_reads(server: ServerProcess, key: str) -> None:
    request = publish_pb2.PublishRequest(author_id=1, body=key, idempotency_key=key)
    server.publish.Publish(request, timeout=PATIENCE_S)
    server.feed.GetFeed(feed_pb2.GetFeedRequest(user_id=2), timeout=PATIENCE_S)


def opening(path: str, stream_id: int) -> bytes:
    """A stream that begins, and says no more."""
    if path == WATCH:
        return call(path, b"", stream_id)
    return request_headers(path, stream_id)


@pytest.mark.parametrize("path", [WATCH, IMPORT, REFLECTION])
def test_more_streams_than_calls_at_work_wait_and_calls_are_served(
    server: ServerProcess, path: str
) -> None:
    peers = [RawPeer.connect(server.address) for _ in range(MANY // A_CONNECTION)]
    try:
        for peer in peers:
            peer.settle()
            peer.sock.sendall(b"".join(opening(path, 2 * n + 1) for n in range(A_CONNECTION)))
        for peer in peers:
            told = 0
            while path == WATCH and told < A_CONNECTION:
                kind, _, _, payload = peer.read()
                assert kind in (HEADERS, DATA)
                told += kind == DATA and payload[5:] == SERVING
            seen(peer)
        publishes_and_reads(server, path)
        check = health_pb2_grpc.HealthStub(server.channel).Check
        assert check(health_pb2.HealthCheckRequest(), timeout=PATIENCE_S).status == 1
    finally:
        for peer in peers:
            peer.sock.close()


def test_every_client_may_watch_health(server: ServerProcess) -> None:
    """As gRPC clients with health checks do: a connection and a watch each, however many."""
    channels = [grpc.insecure_channel(server.address, _apart(n)) for n in range(20)]
    try:
        watches = [
            health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            for channel in channels
        ]
        assert [next(watch).status for watch in watches] == [1] * len(watches)
        publishes_and_reads(server, "watched")
    finally:
        for channel in channels:
            channel.close()


def _apart(number: int) -> list[tuple[str, int]]:
    """Options that keep a channel from sharing its connection with others."""
    return [("grpc.use_local_subchannel_pool", 1), ("test.number", number)]


@pytest.mark.parametrize("path", [WATCH, IMPORT])
def test_a_connection_with_too_many_is_refused_one_more_and_lives(
    server: ServerProcess, path: str
) -> None:
    peer = RawPeer.connect(server.address)
    try:
        peer.settle()
        over = 3
        count = A_CONNECTION + over
        peer.sock.sendall(b"".join(opening(path, 2 * n + 1) for n in range(count)))
        refused: set[int] = set()
        while len(refused) < over:
            kind, flags, stream, _ = peer.read()
            if kind == HEADERS and flags & END_STREAM:  # nothing but a status
                refused.add(stream)
        assert refused == {2 * n + 1 for n in range(A_CONNECTION, count)}
        peer.sock.sendall(call("/grpc.health.v1.Health/Check", b"", 2 * count + 1))
        while True:
            kind, _, stream, payload = peer.read()
            if kind == DATA and stream == 2 * count + 1:
                assert payload[5:] == SERVING
                break
    finally:
        peer.sock.close()


# --- in this process: what is inside can be looked at ---------------------------------------------
class Served:
    """Health, reflection and a unary call that can be held, on the native transport."""

    def __init__(self, bounds: Bounds) -> None:
        self.health = HealthHandlers()
        self.held: asyncio.Event | None = None
        registry = Registry()
        health = health_pb2.DESCRIPTOR.services_by_name["Health"]
        table = {**self.health.table(), "List": self._hold}
        registry.add_service(
            health,
            table,
            fast=self.health.fast_table(),
            standing=self.health.standing_table(),
            prefix="Health",
        )
        reflector = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]
        registry.add_service(reflector, ReflectionHandlers().table())
        self.transport = NativeTransport(Dispatcher(registry, []), SystemClock(), None, bounds)
        self.health.set_serving(True)

    async def _hold(self, _request: Any, _call: Any) -> bytes:
        if self.held is not None:
            await self.held.wait()
        return b""


@asynccontextmanager
async def served(**bounds: Any) -> AsyncIterator[tuple[Served, RawPeer]]:
    """With one connection."""
    one = Served(Bounds(**bounds))
    port = await one.transport.start("127.0.0.1", 0)
    peer = await asyncio.to_thread(RawPeer.connect, f"127.0.0.1:{port}")
    await asyncio.to_thread(peer.settle)
    try:
        yield one, peer
    finally:
        peer.sock.close()
        await one.transport.stop(0)
    calls = one.transport.worker.calls
    assert (calls.waiting.open, calls.waiting.shared, calls.resting, calls.at_work) == (0, 0, 0, 0)


async def frames(peer: RawPeer, *kinds: int) -> tuple[int, int, int, bytes]:
    """The next frame of one of these types."""

    def read() -> tuple[int, int, int, bytes]:
        while True:
            got = peer.read()
            if got[0] in kinds:
                return got

    return await asyncio.to_thread(read)


async def test_a_watch_has_no_task_and_hears_every_change() -> None:
    async with served() as (one, peer):
        peer.sock.sendall(call(WATCH, b"", 1))
        assert (await frames(peer, DATA))[3][5:] == SERVING
        calls = one.transport.worker.calls
        assert (len(calls.tasks), calls.at_work, calls.waiting.open) == (0, 0, 1)
        one.health.set_serving(False)
        assert (await frames(peer, DATA))[3][5:] == NOT_SERVING
        one.health.set_serving(True)
        assert (await frames(peer, DATA))[3][5:] == SERVING
        one.health.end()
        assert (await frames(peer, DATA))[3][5:] == NOT_SERVING
        assert (await frames(peer, HEADERS))[1] & END_STREAM
        assert calls.waiting.open == 0 and calls.stood == Counter({("HealthWatch", "ok"): 1})


async def test_a_watch_ends_with_its_call_and_with_its_connection() -> None:
    async with served() as (one, peer):
        peer.sock.sendall(call(WATCH, b"", 1) + call(WATCH, b"\x0a\x06nobody", 3))
        heard = {(await frames(peer, DATA))[3][5:] for _ in range(2)}
        assert heard == {SERVING, b"\x08\x03"}, "SERVICE_UNKNOWN is told, and watched"
        peer.sock.sendall(b"\0\0\4\3\0\0\0\0\1\0\0\0\x08")  # RST_STREAM, CANCEL
        await asyncio.to_thread(seen, peer)
        assert one.transport.worker.calls.waiting.open == 1
    assert one.transport.worker.calls.stood == Counter({("HealthWatch", "cancelled"): 2})


async def test_a_watch_of_nonsense_is_refused() -> None:
    async with served() as (one, peer):
        peer.sock.sendall(call(WATCH, b"\xff", 1))
        assert (await frames(peer, HEADERS))[1] & END_STREAM
        assert one.transport.worker.calls.stood == Counter({("HealthWatch", "invalid_argument"): 1})
        assert one.transport.worker.calls.waiting.open == 0


async def test_a_watcher_that_reads_nothing_hears_the_newest_state_later() -> None:
    """However often the state changes, one reply waits for it."""
    async with served() as (one, peer):
        # SETTINGS: no window for new streams.
        peer.sock.sendall(b"\0\0\6\4\0\0\0\0\0\0\4\0\0\0\0" + call(WATCH, b"", 1))
        await frames(peer, HEADERS)
        for _ in range(100):
            one.health.set_serving(False)
            one.health.set_serving(True)
        one.health.set_serving(False)
        assert one.transport.worker.sent.held <= 2 * 7
        peer.sock.sendall(b"\0\0\4\x08\0\0\0\0\1\0\0\xff\xff")  # WINDOW_UPDATE
        heard = b""
        while not heard.endswith(NOT_SERVING):
            heard += (await frames(peer, DATA))[3]
        assert len(heard) <= 3 * 7


async def test_a_stream_without_a_message_ends() -> None:
    async with served(request_stall_s=0.5) as (one, peer):
        peer.sock.sendall(request_headers(REFLECTION, 1) + call(WATCH, b"", 3))
        began_s = time.monotonic()
        ended = 0
        while ended != 1:
            _, flags, ended, _ = await frames(peer, HEADERS)
            ended = ended if flags & END_STREAM else 0
        assert time.monotonic() - began_s >= 0.5
        await asyncio.to_thread(seen, peer)
        assert one.transport.worker.calls.waiting.open == 1, "the watch owes nothing"


async def test_a_stream_that_falls_silent_ends_later() -> None:
    async with served(request_stall_s=0.5, stream_idle_s=2.0) as (_, peer):
        asked = reflection_pb2.ServerReflectionRequest(list_services="*").SerializeToString()
        whole = call(REFLECTION, asked, 1)
        peer.sock.sendall(whole[: len(whole) - len(asked) - 5 - 9])
        message = bytearray(whole[-(len(asked) + 5 + 9) :])
        message[4] = 0  # without END_STREAM
        peer.sock.sendall(bytes(message))
        await frames(peer, DATA)
        began_s = time.monotonic()
        while not (await frames(peer, HEADERS, RST_STREAM))[1] & END_STREAM:
            continue
        assert time.monotonic() - began_s >= 1.0


async def test_health_says_what_callers_meet_when_the_worker_is_full() -> None:
    async with served(calls_max=3) as (one, peer):
        worker = one.transport.worker
        one.held = asyncio.Event()
        readiness = Readiness(
            one.health, lambda: "", OpenFiles("test"), lambda: 1, lambda: worker.calls.full
        )
        listing = "/grpc.health.v1.Health/List"
        peer.sock.sendall(b"".join(call(listing, b"", n) for n in (1, 3, 5, 7)))
        assert (await frames(peer, HEADERS))[2] == 7, "the fourth finds the worker full"
        assert worker.calls.full
        readiness.look()
        assert one.health.fast_check(b"") == SERVING, "a burst is served late"
        for _ in range(limits.FULL_LASTS):
            readiness.look()
        assert one.health.fast_check(b"") == NOT_SERVING
        liveness = health_pb2.HealthCheckRequest(service="liveness").SerializeToString()
        assert one.health.fast_check(liveness) == SERVING
        one.held.set()
        await asyncio.to_thread(seen, peer)
        readiness.look()
        assert one.health.fast_check(b"") == SERVING


async def test_a_stream_s_first_message_finds_the_worker_full() -> None:
    """A stream that waits has no place among the calls at work: that it gets with its message."""
    async with served(calls_max=1) as (one, peer):
        one.held = asyncio.Event()
        asked = reflection_pb2.ServerReflectionRequest(list_services="*").SerializeToString()
        peer.sock.sendall(request_headers(REFLECTION, 1))
        peer.sock.sendall(call("/grpc.health.v1.Health/List", b"", 3))
        await asyncio.to_thread(seen, peer)
        assert one.transport.worker.calls.full
        data = call(REFLECTION, asked, 1)[len(request_headers(REFLECTION, 1)) :]
        peer.sock.sendall(data)
        kind, flags, stream, _ = await frames(peer, HEADERS, DATA)
        assert (kind, flags & END_STREAM, stream) == (HEADERS, END_STREAM, 1), "refused"
        one.held.set()


def test_a_thousand_clients_of_grpc_watch(tmp_path: Path) -> None:
    """1,040 connections with a watch each: more than calls at work, and than a worker's share."""
    with ServerProcess(tmp_path / "data", workers=1) as server:
        host, _, port = server.address.rpartition(":")
        peers: list[RawPeer] = []
        try:
            for _ in range(1_040):
                peers.append(RawPeer(socket.create_connection((host, int(port)), PATIENCE_S)))
                peers[-1].sock.sendall(call(WATCH, b"", 1))
            for peer in peers:
                assert peer.until(DATA)[3][5:] == SERVING
            publishes_and_reads(server, "a thousand")
        finally:
            for peer in peers:
                peer.sock.close()
