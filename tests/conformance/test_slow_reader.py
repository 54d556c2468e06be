"""The native transport and a peer that reads nothing for a while, which is not yet a stalled one.

Frames are written by hand here: no client library lets its user stop reading the socket.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from typing import Any

from feedcore.clock import SystemClock
from feedcore_server.context import CallContext
from feedcore_server.dispatch import Dispatcher
from feedcore_server.transports.native import NativeTransport
from tests.support.testservice import TestService, pb

WINDOW_MAX = 2**31 - 1
DATA, HEADERS, SETTINGS, WINDOW_UPDATE = 0, 1, 4, 8
END_STREAM, END_HEADERS = 1, 4
REPLIES, REPLY_BYTES = 64, 512 * 1024  # well above what both sockets hold
PATIENCE_S = 30.0


class Watched(TestService):
    """Tells when a FullDuplexCall was cancelled."""

    def __init__(self) -> None:
        super().__init__()
        self.cancelled = asyncio.Event()

    async def full_duplex(
        self, requests: AsyncIterator[Any], call: CallContext
    ) -> AsyncIterator[Any]:
        try:
            async for reply in super().full_duplex(requests, call):
                yield reply
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def headers(method: str, stream: int, **more: str) -> bytes:
    """A request's HEADERS: literals without indexing."""
    pairs = {
        ":method": "POST",
        ":scheme": "http",
        ":path": f"/grpc.testing.TestService/{method}",
        ":authority": "test",
        "content-type": "application/grpc",
        "te": "trailers",
        **{name.replace("_", "-"): value for name, value in more.items()},
    }
    block = b"".join(
        bytes([0, len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in pairs.items()
    )
    return frame(HEADERS, END_HEADERS, stream, block)


def opening() -> bytes:
    """A peer that never holds the server back by flow control, and its two calls."""
    parameters = [pb.ResponseParameters(size=REPLY_BYTES)] * REPLIES
    request = pb.StreamingOutputCallRequest(response_parameters=parameters).SerializeToString()
    message = struct.pack(">BI", 0, len(request)) + request
    return b"".join(
        [
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            frame(SETTINGS, 0, 0, struct.pack(">HI", 4, WINDOW_MAX)),
            frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", WINDOW_MAX - 65_535)),
            headers("FullDuplexCall", 1, grpc_timeout="2S"),
            headers("StreamingOutputCall", 3),
            frame(DATA, END_STREAM, 3, message),
        ]
    )


async def test_a_deadline_that_passes_while_the_peer_does_not_read_ends_one_call() -> None:
    service, loop = Watched(), asyncio.get_running_loop()
    transport = NativeTransport(Dispatcher(service.registry(), []), SystemClock())
    port = await transport.start("127.0.0.1", 0)
    peer = socket.socket()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    peer.setblocking(False)
    try:
        await loop.sock_connect(peer, ("127.0.0.1", port))
        await loop.sock_sendall(peer, opening())
        await asyncio.wait_for(service.cancelled.wait(), PATIENCE_S)
        received = 0
        while received < REPLIES * REPLY_BYTES:
            chunk = await asyncio.wait_for(loop.sock_recv(peer, 1 << 20), PATIENCE_S)
            assert chunk, f"cut off after {received} bytes: {transport.worker.counters.cut}"
            received += len(chunk)
        assert not transport.worker.counters.cut
    finally:
        peer.close()
        await transport.stop(0)
