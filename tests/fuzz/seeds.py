"""Makes the seeds of the corpus from traffic: `python -m tests.fuzz.seeds` writes them anew.

C-core and the peer of tests/support/peer.py call a session over a socketpair; what they say becomes
raw operations of the session target, with handlers' operations where the recording had them. Seeds
of the framing target are written down below. Other files of the corpus (crash-*, found-*) stay.
"""

from __future__ import annotations

import asyncio
import gzip
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc.aio

from feedcore._native.http2.h2 import EVENT_CALL, EVENT_CLOSED, EVENT_MESSAGE, Session
from feedcore._native.http2.h2stream import Account, Rules
from tests.fuzz.session_target import HANDLER_OPS, OPS, ROWS, USUAL, Run
from tests.support.peer import Peer, framed

CORPUS = Path(__file__).parent / "corpus"
RAW_MAX = 256  # bytes that one raw operation carries
INPUT_MAX = 3_000  # a longer seed would be mutated where nothing depends on it
NO_PREFACE = 2  # first byte of a script: the bytes bring their own
TURN, HANDLE = OPS.index(Run.turn), OPS.index(Run.handle)


def operation(op: int, arg: int = 0) -> bytes:
    """One operation of the session target."""
    return bytes([op | arg << 3])


def raw(data: bytes) -> bytes:
    """Raw operations that feed these bytes."""
    pieces = [data[at : at + RAW_MAX] for at in range(0, len(data), RAW_MAX)]
    return b"".join(operation(0) + bytes([len(piece) - 1]) + piece for piece in pieces)


def handler(number: int, action: Callable[..., Any], *arguments: int) -> bytes:
    """What a handler does."""
    return operation(HANDLE, HANDLER_OPS.index(action)) + bytes([number, *arguments])


class Recorder(asyncio.Protocol):
    """Serves one connection by the book and writes its script."""

    def __init__(self) -> None:
        self.script = bytearray([NO_PREFACE])
        self.seen: list[Any] = []
        self.session = Session(Rules(USUAL), ROWS, Account(1 << 40), Account(1 << 40), 100.0)

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._turn()

    def data_received(self, data: bytes) -> None:
        self.script += raw(data)
        for kind, stream in self.session.receive(data, len(data), 100.0) or []:
            if kind == EVENT_CALL:
                self.seen.append(stream)
                stream.owner = object()
            if kind in (EVENT_CALL, EVENT_MESSAGE):
                self._handle(self.seen.index(stream), stream)
        self._turn()

    def _handle(self, number: int, stream: Any) -> None:
        self.script += handler(number, Run.take)
        if stream.row.one_request:
            stream.take_request()
        else:
            while stream.take() is not None:
                pass
            if not stream.request_done:
                stream.wants_message = True
                return
        stream.owner = None
        if stream.row.one_reply:
            self.script += handler(number, Run.reply, 1, 20, 1)
            stream.reply(bytes(20), True, [("key", "value")], [("key", "value")])
        else:
            self.script += handler(number, Run.send, 0, 40, 0) * 2
            self.script += handler(number, Run.finish, 5, 1) + b"end"
            stream.send(bytes(40), False, [])
            stream.send(bytes(40), False, [])
            stream.finish(5, "", [("key", "value")], [])

    def _turn(self) -> None:
        self.script += operation(TURN)
        while (data := self.session.pull(100.0)) is not None:
            self.transport.write(data)
        assert all(kind != EVENT_CLOSED for kind, _ in self.session.take_events() or [])


async def cored(calls: Callable[[grpc.aio.Channel], Awaitable[Any]]) -> bytes:
    """The script of what C-core says."""
    made: list[Recorder] = []

    def record() -> Recorder:
        made.append(Recorder())
        return made[-1]

    server = await asyncio.get_running_loop().create_server(record, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        await calls(channel)
    server.close()
    return bytes(made[0].script[:INPUT_MAX])


async def three(*messages: bytes) -> AsyncIterator[bytes]:
    """A stream of requests."""
    for message in messages:
        yield message


async def heard(replies: AsyncIterator[bytes]) -> None:
    """To the end of the call: the recorder gives it status 5."""
    try:
        async for _ in replies:
            pass
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.NOT_FOUND:
            raise


async def unary(channel: grpc.aio.Channel) -> None:
    await channel.unary_unary("/f/unary")(b"request", metadata=[("k-bin", b"\0"), ("k", "v")])
    await channel.unary_unary("/f/unary")(b"x" * 300, timeout=5)


async def zipped(channel: grpc.aio.Channel) -> None:
    await channel.unary_unary("/f/unary")(b"x" * 300, compression=grpc.Compression.Gzip)
    await channel.unary_unary("/f/fast")(b"fast")


async def client_stream(channel: grpc.aio.Channel) -> None:
    await channel.stream_unary("/f/client")(three(b"a", b"", b"x" * 200))


async def server_stream(channel: grpc.aio.Channel) -> None:
    await heard(channel.unary_stream("/f/server")(b"request"))


async def bidi(channel: grpc.aio.Channel) -> None:
    await heard(channel.stream_stream("/f/bidi")(three(b"a", b"b")))


async def several(channel: grpc.aio.Channel) -> None:
    call = channel.unary_unary("/f/unary")
    await asyncio.gather(*(call(bytes([n]) * n) for n in range(5)))


def scripted() -> dict[str, bytes]:
    """Scripts of operations, for what C-core does not say."""
    request, data, frames = OPS.index(Run.request), OPS.index(Run.data), OPS.index(Run.any_frame)
    time, owner = OPS.index(Run.time), OPS.index(Run.owner_asks)
    found = {
        "reset": operation(request, 3) + b"\0" + operation(frames, 3) + b"\0\x01\x04\0\0\0\x08",
        "late": operation(request, 11) + b"\0\0" + operation(time, 20) + operation(TURN),
        "torn": operation(request, 1) + b"\0" + operation(data, 5) + b"\0\x03\0\0\0",
        "flag": operation(request, 1) + b"\0" + operation(data, 4) + b"\0\x05\x02\0\0\0\0",
        "bytes": operation(request, 3) + b"\0" + operation(data, 3) + b"\0\x05hello",
        "zip": operation(request, 19) + b"\0" + operation(data, 9) + b"\0\x05hello",
        "goaway": operation(owner, 27) + operation(TURN) + operation(owner, 28) + b"\0",
        "window": operation(frames, 8) + b"\0\0\x04\x7f\xff\xff\xff",
        "settings": operation(frames, 4) + b"\0\0\x06\0\x04\0\0\0\0",
        "continued": operation(frames, 1) + b"\x01\x01\x01\x83"
        + operation(frames, 9) + b"\x04\x01\0",
        "close": operation(request, 3) + b"\0" + handler(0, Run.send, 2, 255, 0)
        + operation(owner, 31),
        "stalled": operation(frames, 4) + b"\0\0\x06\0\x04\0\0\0\0"
        + operation(request, 3) + b"\x01"
        + handler(0, Run.send, 2, 255, 0) + operation(TURN) + operation(time, 30) * 2,
        "refused": (operation(request, 3) + b"\0") * 5 + operation(TURN),
        "fast": operation(request, 4) + b"\0" + operation(data, 1) + b"\0\x04slow"
        + operation(request, 4) + b"\0" + operation(data, 1) + b"\x01\x04fail",
    }  # fmt: skip
    low = {f"{name}-low": b"\x01" + script for name, script in found.items()}
    return low | {name: b"\0" + script for name, script in found.items()}


def spoken() -> dict[str, bytes]:
    """What the peer of the tests says: padding, table sizes, cuts of the header block."""
    peer = Peer()
    peer.hello({1: 0, 4: 100})
    headers = [(":method", "POST"), (":scheme", "http"), (":path", "/f/bidi")]
    headers += [(":authority", "f"), ("content-type", "application/grpc+proto")]
    stream = peer.open(headers, pieces=3)
    peer.data(stream, framed(b"padded"), padding=20)
    peer.settings({1: 4_096})
    peer.give_room(stream, 1_000)
    peer.ping()
    peer.data(stream, framed(gzip.compress(b"spoilt")[:-3], 1), end=True)
    other = peer.open(headers)
    peer.reset(other)
    said = peer.deliver()
    cut = b"".join(raw(said[at : at + 7]) for at in range(0, len(said), 7))
    return {
        "spoken": bytes([NO_PREFACE]) + raw(said),
        "spoken-cut": bytes([NO_PREFACE | 1]) + cut + handler(0, Run.take) + operation(TURN),
        "spoken-bytes": bytes([NO_PREFACE]) + raw(said).replace(operation(0), operation(0, 1), 1),
    }


def framing() -> dict[str, bytes]:
    """Seeds of the framing target: the first byte chooses the function."""
    two = struct.pack(">BI", 0, 3) + b"abc" + struct.pack(">BI", 1, 0)
    return {
        "messages": b"\0\0" + two,
        "messages-cut": b"\0\x01" + two + b"\0\0",
        "messages-long": b"\0\x07" + struct.pack(">BI", 0, 301),
        "messages-flag": b"\0\0" + two + b"\x02\0\0\0\0",
        "timeout": b"\x0199999999H",
        "timeout-short": b"\x011n",
        "message": b"\x02tab%09 smile %E2%98%BA 100%25 %zz%",
        "metadata": b"\x03\x03key\x05value\x05k-bin\x02\0\xff\x08grpc-foo\x01x",
        "binary": b"\x04\0\xff\x10",
        "compression": b"\x05" + gzip.compress(b"message" * 3, mtime=0),
        "compression-long": b"\x05" + gzip.compress(bytes(1_000), mtime=0),
    }


def main() -> None:
    """Writes every seed."""
    session = scripted() | spoken()
    for calls in (unary, zipped, client_stream, server_stream, bidi, several):
        session[f"core-{calls.__name__}"] = asyncio.run(cored(calls))
    for target, seeds in (("session", session), ("framing", framing())):
        folder = CORPUS / target
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("seed-*"):
            old.unlink()
        for name, data in seeds.items():
            (folder / f"seed-{name}").write_bytes(data)


if __name__ == "__main__":
    main()
