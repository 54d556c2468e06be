"""Frames of calls that are over, and streams beyond the limit: answered as RFC 9113 asks, with the
connection and its other calls left alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from feedcore.clock import SystemClock
from feedcore_server import limits
from feedcore_server.dispatch import Dispatcher
from feedcore_server.handlers.health import HealthHandlers
from feedcore_server.handlers.reflection import ReflectionHandlers
from feedcore_server.registry import Registry
from feedcore_server.transports.native import NativeTransport
from tests.support.rawframes import (
    DATA,
    END_STREAM,
    GOAWAY,
    HEADERS,
    RST_STREAM,
    RawPeer,
    call,
    frame,
    prefixed,
    request_headers,
)

CHECK = "/grpc.health.v1.Health/Check"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
PRIORITY = 2
PROTOCOL_ERROR, STREAM_CLOSED, REFUSED_STREAM, CANCEL = 1, 5, 7, 8
STREAMS_MAX = limits.STREAMS_PER_CONNECTION_MAX
Frame = tuple[int, int, int, bytes]


@asynccontextmanager
async def connected() -> AsyncIterator[RawPeer]:
    """A connection to a server of health and reflection."""
    health, registry = HealthHandlers(), Registry()
    service = health_pb2.DESCRIPTOR.services_by_name["Health"]
    registry.add_service(service, health.table(), prefix="Health")
    service = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]
    registry.add_service(service, ReflectionHandlers().table())
    transport = NativeTransport(Dispatcher(registry, []), SystemClock())
    port = await transport.start("127.0.0.1", 0)
    peer = await asyncio.to_thread(RawPeer.connect, f"127.0.0.1:{port}")
    await asyncio.to_thread(peer.settle)
    try:
        yield peer
    finally:
        peer.sock.close()
        await transport.stop(0)


async def answers(peer: RawPeer, raw: bytes, last: int) -> list[Frame]:
    """Every frame that comes of these bytes, up to the end of a call behind them, whose number is
    `last`; or up to GOAWAY."""

    def ask() -> list[Frame]:
        peer.sock.sendall(raw + call(CHECK, b"", last))
        found: list[Frame] = []
        while True:
            found.append(got := peer.read())
            over = got[0] == RST_STREAM or (got[0] == HEADERS and got[1] & END_STREAM)
            if got[0] == GOAWAY or (got[2] == last and over):
                return found

    return await asyncio.to_thread(ask)


def resets(frames: list[Frame]) -> list[tuple[int, int]]:
    """(stream, code) of each."""
    return [(one[2], int.from_bytes(one[3], "big")) for one in frames if one[0] == RST_STREAM]


def reset(stream_id: int) -> bytes:
    return frame(RST_STREAM, 0, stream_id, CANCEL.to_bytes(4, "big"))


@pytest.mark.parametrize("how", ["ended by both", "reset by the caller"])
@pytest.mark.parametrize("late", ["DATA", "HEADERS", "both, twice"])
async def test_frames_of_a_call_that_its_caller_has_ended(how: str, late: str) -> None:
    data, headers = frame(DATA, 0, 1, prefixed(b"late")), request_headers(CHECK, 1)
    raw = {"DATA": data, "HEADERS": headers, "both, twice": (data + headers) * 2}[late]
    async with connected() as peer:
        if how == "ended by both":
            await answers(peer, b"", 1)
        else:
            raw = request_headers(REFLECTION, 1) + reset(1) + raw
        assert resets(await answers(peer, raw, 3)) == [(1, STREAM_CLOSED)], "once"


async def test_what_was_under_way_when_we_reset_a_call_is_dropped() -> None:
    async with connected() as peer:
        peer.sock.sendall(request_headers(REFLECTION, 1, timeout="50m"))
        assert (await asyncio.to_thread(peer.until, RST_STREAM))[2] == 1, "its deadline passes"
        late = frame(DATA, 0, 1, prefixed(b"under way")) + request_headers(REFLECTION, 1)
        assert resets(await answers(peer, late, 3)) == []


async def test_a_priority_of_no_stream_ends_the_connection() -> None:
    async with connected() as peer:
        got = await answers(peer, frame(PRIORITY, 0, 0, b"\0\0\0\0\x10"), 1)
        assert got[-1][0] == GOAWAY and got[-1][3][4:8] == PROTOCOL_ERROR.to_bytes(4, "big")


async def test_streams_beyond_the_limit_are_refused_and_the_others_go_on() -> None:
    async with connected() as peer:
        begun = b"".join(request_headers(CHECK, 2 * n + 1) for n in range(STREAMS_MAX))
        more = [2 * (STREAMS_MAX + n) + 1 for n in range(5)]
        beyond = b"".join(call(CHECK, b"", one) for one in more[:-1])
        got = await answers(peer, begun + beyond, more[-1])
        assert resets(got) == [(one, REFUSED_STREAM) for one in more]
        assert len(got) == len(more), "nothing else"
        peer.sock.sendall(frame(DATA, END_STREAM, 1, prefixed(b"")))
        kinds = [(await asyncio.to_thread(peer.read))[0] for _ in range(3)]
        assert kinds == [HEADERS, DATA, HEADERS], "the first is served"
        got = await answers(peer, b"", more[-1] + 2)
        assert resets(got) == [], "there is room for one again"
