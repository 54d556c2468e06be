"""A client of raw HTTP/2 frames: says anything, byte by byte, and records all that comes back.

Job: what no well-behaved client can be made to send. Framing is hyperframe, header compression is
hpack: nothing is shared with what is tested. Invariants: nothing is read, and no window is opened,
unless the test waits for something (so a test that does not wait is a slow reader); every wait has
an end; a wait that fails names the frames that came. Two courtesies, both switches: SETTINGS and
PING are acknowledged. Not for load, nor for calls that grpc.aio can make.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any
from urllib.parse import unquote

import hpack
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
PATIENCE_S = 10.0  # the longest wait for what should come at once
FRAME_BYTES_MAX = 16_384  # until a peer allows more (RFC 9113, 4.2)
WINDOW_BYTES = 65_535  # both windows, until changed (RFC 9113, 6.9.2)
HEADER_LIST_MAX = 1 << 20  # hpack's own bound is too low for servers that echo much
PREFIX_BYTES = 5  # of a gRPC message: flag, then the length

Header = tuple[str | bytes, str | bytes]
Sendable = Frame | bytes


class Code(IntEnum):
    """Error codes of RST_STREAM and GOAWAY (RFC 9113, 7)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


class Silence(AssertionError):
    """What was waited for did not come in time."""


class Closed(AssertionError):
    """The connection ended before what was waited for came."""


def grpc_message(payload: bytes, flag: int = 0, length: int | None = None) -> bytes:
    """A length-prefixed message; `length` may lie."""
    return struct.pack(">BI", flag, len(payload) if length is None else length) + payload


def raw_frame(
    kind: int, flags: int, stream: int, payload: bytes = b"", length: int | None = None
) -> bytes:
    """Any frame at all; `length` may lie."""
    size = len(payload) if length is None else length
    return struct.pack(">I", size)[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def request_headers(
    path: str | bytes, *extra: Header, without: Iterable[str] = (), **changed: str
) -> list[Header]:
    """A gRPC request's headers. `changed`: method, scheme, authority, content_type, te."""
    usual = {"method": "POST", "scheme": "http", "authority": "test", "te": "trailers"}
    values = usual | {"content_type": "application/grpc"} | changed
    headers: list[Header] = [(f":{name}", values[name]) for name in ("method", "scheme")]
    headers += [(":path", path), (":authority", values["authority"])]
    headers += [("te", values["te"]), ("content-type", values["content_type"])]
    return [header for header in headers if header[0] not in set(without)] + list(extra)


def header_list_bytes(headers: Iterable[Header]) -> int:
    """The size of a header list as HTTP/2 counts it: 32 a header beside name and value."""
    return sum(len(name) + len(value) + 32 for name, value in headers)


@dataclass
class Stream:
    """All that came back on one stream, in order."""

    number: int
    credit: int  # bytes the server will take, without that of the connection
    headers: list[tuple[str, str]] | None = None
    trailers: list[tuple[str, str]] | None = None
    data: bytearray = field(default_factory=bytearray)
    ended: bool = False
    reset: int | None = None
    frames: list[str] = field(default_factory=list)

    @property
    def over(self) -> bool:
        """Nothing more is due."""
        return self.ended or self.reset is not None

    @property
    def trailers_only(self) -> bool:
        """One HEADERS frame was the whole answer."""
        return self.ended and self.trailers is None and not self.data

    @property
    def closing(self) -> list[tuple[str, str]]:
        """The headers that carry the status."""
        return (self.headers if self.trailers_only else self.trailers) or []

    @property
    def http_status(self) -> int:
        """As in `:status`; 0 if there were no headers."""
        return int(dict(self.headers or []).get(":status", "0"))

    @property
    def status(self) -> int | None:
        """The gRPC status, None without one."""
        text = dict(self.closing).get("grpc-status")
        return None if text is None else int(text)

    @property
    def message(self) -> str:
        """grpc-message, decoded."""
        return unquote(dict(self.closing).get("grpc-message", ""))

    def header(self, name: str) -> str | None:
        """A value of the first headers."""
        return dict(self.headers or []).get(name)

    @property
    def messages(self) -> list[tuple[int, bytes]]:
        """(flag, payload) of each whole message so far."""
        found, at = [], 0
        while at + PREFIX_BYTES <= len(self.data):
            flag, size = struct.unpack_from(">BI", self.data, at)
            if at + PREFIX_BYTES + size > len(self.data):
                break
            found.append((flag, bytes(self.data[at + PREFIX_BYTES : at + PREFIX_BYTES + size])))
            at += PREFIX_BYTES + size
        return found


class RawClient:
    """One connection. Streams are numbered from 1; `streams` has what came back on each."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._encoder = hpack.Encoder()
        self._decoder = hpack.Decoder(HEADER_LIST_MAX)
        self._block: tuple[Frame, bytearray] | None = None
        self._next_stream = 1
        self.patience_s = PATIENCE_S  # the longest that any wait lasts unless it says otherwise
        self.answer_settings = True
        self.answer_pings = True
        self.credit = WINDOW_BYTES  # bytes the server will take on all streams together
        self.streams: dict[int, Stream] = {}
        self.settings: dict[int, int] | None = None  # the server's, merged
        self.settings_acks = 0
        self.pings: list[bytes] = []  # the server's, oldest first
        self.pongs: list[bytes] = []
        self.goaways: list[tuple[int, int, bytes]] = []  # last stream, code, debug data
        self.log: list[str] = []
        self.closed = ""  # "" while open, then "eof" or "reset"

    @classmethod
    async def connect(
        cls, address: int | str, tls: ssl.SSLContext | None = None, **options: Any
    ) -> RawClient:
        """Connects to a port of this machine, or to a unix socket's path. Says nothing yet."""
        if tls is not None:
            options.setdefault("server_hostname", "localhost")
        if isinstance(address, int):
            opened = asyncio.open_connection("127.0.0.1", address, ssl=tls, **options)
        else:
            opened = asyncio.open_unix_connection(address, ssl=tls, **options)
        return cls(*await asyncio.wait_for(opened, PATIENCE_S))

    async def __aenter__(self) -> RawClient:
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self.close()

    @property
    def socket(self) -> socket.socket:
        """The socket, for its options and its name."""
        return self.transport_info("socket")  # type: ignore[no-any-return]

    def transport_info(self, name: str) -> Any:
        """What asyncio knows of the connection: `ssl_object`, `peername` and so on."""
        return self._writer.get_extra_info(name)

    async def close(self, *, reset: bool = False) -> None:
        """Hangs up: FIN, or RST of the whole TCP connection."""
        if reset:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._writer.transport.abort()
        else:
            self._writer.close()
        try:
            await asyncio.wait_for(self._writer.wait_closed(), PATIENCE_S)
        except (ConnectionError, ssl.SSLError):
            self.closed = self.closed or "reset"

    def half_close(self) -> None:
        """FIN: nothing more will be sent; what comes is still read."""
        self._writer.write_eof()

    # --- sending ---------------------------------------------------------------------------------

    async def send(self, *parts: Sendable, each: int = 0) -> None:
        """Sends frames or bytes as they are; `each`: so many bytes a packet, 0 for all in one."""
        raw = b"".join(part if isinstance(part, bytes) else part.serialize() for part in parts)
        if each:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            for at in range(0, len(raw), each or len(raw) or 1):
                self._writer.write(raw[at : at + each] if each else raw)
                await asyncio.wait_for(self._writer.drain(), PATIENCE_S)
        except ConnectionError:
            self.closed = self.closed or "reset"

    async def handshake(self, settings: dict[int, int] | None = None) -> None:
        """Preface and SETTINGS; waits for the server's SETTINGS and, if they are answered, for the
        acknowledgement of ours."""
        await self.send(PREFACE, SettingsFrame(0, settings=settings or {}))
        await self.until(lambda: self.settings is not None, "the server's SETTINGS")
        await self.until(lambda: self.settings_acks > 0, "SETTINGS acknowledged")

    def header_frames(
        self, stream: int, headers: Sequence[Header], *, end: bool = False, each: int = 0
    ) -> list[Frame]:
        """HEADERS, and CONTINUATION for what is above `each` bytes (0: what a frame may hold)."""
        size = each or FRAME_BYTES_MAX
        block = self._encoder.encode(headers)
        parts = [block[at : at + size] for at in range(0, len(block), size)] or [b""]
        frames: list[Frame] = [HeadersFrame(stream, parts[0], flags=["END_STREAM"] * end)]
        frames += [ContinuationFrame(stream, part) for part in parts[1:]]
        frames[-1].flags.add("END_HEADERS")
        return frames

    def open(self) -> int:
        """The next stream's number."""
        number, self._next_stream = self._next_stream, self._next_stream + 2
        self._state(number)
        return number

    def _state(self, number: int) -> Stream:
        """The record of a stream; tests may send on numbers of their own."""
        if number not in self.streams:
            window = (self.settings or {}).get(SettingsFrame.INITIAL_WINDOW_SIZE, WINDOW_BYTES)
            self.streams[number] = Stream(number, window)
        return self.streams[number]

    async def start(self, headers: Sequence[Header], *, end: bool = False) -> int:
        """Opens a stream with these headers."""
        stream = self.open()
        await self.send(*self.header_frames(stream, headers, end=end))
        return stream

    async def call(
        self, path: str | bytes, *messages: bytes, extra: Sequence[Header] = (), end: bool = True
    ) -> int:
        """A whole call in one write: headers, messages with their prefix, END_STREAM. For messages
        that fit into the windows."""
        stream = self.open()
        frames = self.header_frames(stream, request_headers(path, *extra))
        frames += [DataFrame(stream, grpc_message(message)) for message in messages]
        if end:
            frames[-1].flags.add("END_STREAM")
        await self.send(*frames)
        return stream

    async def send_data(self, stream: int, data: bytes, *, end: bool = False) -> None:
        """DATA in frames of the usual size, as the server's windows allow."""
        view, at, state = memoryview(data), 0, self.streams[stream]
        while at < len(view):
            await self.until(lambda: min(self.credit, state.credit) > 0 or state.over, "credit")
            if state.over:
                return
            size = min(len(view) - at, FRAME_BYTES_MAX, self.credit, state.credit)
            last = end and at + size == len(view)
            flags = ["END_STREAM"] * last
            await self.send(DataFrame(stream, bytes(view[at : at + size]), flags=flags))
            self.credit -= size
            state.credit -= size
            at += size

    async def cancel(self, stream: int, code: int = Code.CANCEL) -> None:
        """RST_STREAM."""
        await self.send(RstStreamFrame(stream, error_code=code))

    async def widen(self, stream: int, size: int) -> None:
        """WINDOW_UPDATE: `size` bytes more for a stream (0 for the connection)."""
        await self.send(WindowUpdateFrame(stream, window_increment=size))

    # --- reading ---------------------------------------------------------------------------------

    async def read_frame(self, patience_s: float | None = None) -> Frame | None:
        """The next frame, recorded; None when the connection has ended. Raises Silence."""
        patience_s = self.patience_s if patience_s is None else patience_s
        try:
            async with asyncio.timeout(patience_s):
                head = await self._reader.readexactly(9)
                frame, length = Frame.parse_frame_header(memoryview(head))
                frame.parse_body(memoryview(await self._reader.readexactly(length)))
        except TimeoutError:
            raise Silence(f"no frame in {patience_s} s; so far: {self.log}") from None
        except asyncio.IncompleteReadError:
            self.closed = self.closed or "eof"
            return None
        except (ConnectionError, ssl.SSLError):
            self.closed = "reset"
            return None
        await self._record(frame)
        return frame

    async def until(
        self, condition: Callable[[], bool], what: str, patience_s: float | None = None
    ) -> None:
        """Reads until it is so. Raises Silence or Closed."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + (self.patience_s if patience_s is None else patience_s)
        while not condition():
            if await self.read_frame(max(0.0, end_s - loop.time())) is None and not condition():
                raise Closed(f"{self.closed} before {what}; so far: {self.log}")

    async def finished(self, stream: int, patience_s: float | None = None) -> Stream:
        """Reads until the stream is over. Raises Silence or Closed."""
        state = self.streams[stream]
        await self.until(lambda: state.over, f"the end of stream {stream}", patience_s)
        return state

    async def was_reset(self, stream: int) -> int:
        """Reads until RST_STREAM comes for the stream; its code."""
        state = self.streams[stream]
        await self.until(lambda: state.reset is not None, f"RST_STREAM of {stream}")
        assert state.reset is not None
        return state.reset

    async def goaway(self, patience_s: float | None = None) -> tuple[int, int, bytes]:
        """Reads until there is a GOAWAY; the newest: last stream, code, debug data."""
        await self.until(lambda: bool(self.goaways), "GOAWAY", patience_s)
        return self.goaways[-1]

    async def hung_up(self, patience_s: float | None = None) -> str:
        """Reads until the server closes the connection; "eof" or "reset"."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + (self.patience_s if patience_s is None else patience_s)
        while await self.read_frame(max(0.0, end_s - loop.time())) is not None:
            pass
        return self.closed

    async def ping(self, data: bytes = b"are you?") -> None:
        """Sends a PING and reads until it is acknowledged: all that was sent before it came has
        been seen. Costs one of the few pings a server forgives."""
        seen = len(self.pongs)
        await self.send(PingFrame(0, data))
        await self.until(lambda: len(self.pongs) > seen, "PING acknowledged")

    async def _record(self, frame: Frame) -> None:
        self.log.append(_short(frame))
        if frame.stream_id and not isinstance(frame, ContinuationFrame):
            self._state(frame.stream_id).frames.append(_short(frame))
        if isinstance(frame, SettingsFrame):
            await self._on_settings(frame)
        elif isinstance(frame, PingFrame):
            await self._on_ping(frame)
        elif isinstance(frame, GoAwayFrame):
            self.goaways.append((frame.last_stream_id, frame.error_code, frame.additional_data))
        elif isinstance(frame, HeadersFrame | ContinuationFrame):
            self._on_headers(frame)
        elif isinstance(frame, WindowUpdateFrame):
            if frame.stream_id == 0:
                self.credit += frame.window_increment
            else:
                self.streams[frame.stream_id].credit += frame.window_increment
        elif isinstance(frame, DataFrame):
            state = self.streams[frame.stream_id]
            state.data += frame.data
            state.ended |= "END_STREAM" in frame.flags
        elif isinstance(frame, RstStreamFrame):
            self.streams[frame.stream_id].reset = frame.error_code

    async def _on_settings(self, frame: SettingsFrame) -> None:
        if "ACK" in frame.flags:
            self.settings_acks += 1
            return
        old = (self.settings or {}).get(SettingsFrame.INITIAL_WINDOW_SIZE, WINDOW_BYTES)
        self.settings = {**(self.settings or {}), **frame.settings}
        new = self.settings.get(SettingsFrame.INITIAL_WINDOW_SIZE, WINDOW_BYTES)
        for stream in self.streams.values():
            stream.credit += new - old
        if self.answer_settings:
            await self.send(SettingsFrame(0, flags=["ACK"]))

    async def _on_ping(self, frame: PingFrame) -> None:
        if "ACK" in frame.flags:
            self.pongs.append(frame.opaque_data)
            return
        self.pings.append(frame.opaque_data)
        if self.answer_pings:
            await self.send(PingFrame(0, frame.opaque_data, flags=["ACK"]))

    def _on_headers(self, frame: HeadersFrame | ContinuationFrame) -> None:
        """Decodes a block when its last part has come, whatever stream it is for."""
        if isinstance(frame, HeadersFrame):
            self._block = (frame, bytearray())
        assert self._block is not None, "CONTINUATION without HEADERS"
        first, block = self._block
        block += frame.data
        if "END_HEADERS" not in frame.flags:
            return
        self._block = None
        decoded = self._decoder.decode(bytes(block), raw=True)
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in decoded]
        state = self.streams[first.stream_id]
        if state.headers is None:
            state.headers = headers
        else:
            assert state.trailers is None, "a third header block"
            state.trailers = headers
        state.ended |= "END_STREAM" in first.flags


def _short(frame: Frame) -> str:
    """A frame in a few words: `HEADERS 1 END_STREAM`."""
    words = [type(frame).__name__.removesuffix("Frame").upper(), str(frame.stream_id)]
    words += sorted(flag for flag in frame.flags if flag != "END_HEADERS")
    if isinstance(frame, DataFrame):
        words.append(f"{len(frame.data)} bytes")
    elif isinstance(frame, RstStreamFrame):
        words.append(code_name(frame.error_code))
    elif isinstance(frame, GoAwayFrame):
        words += [str(frame.last_stream_id), code_name(frame.error_code)]
        words += [frame.additional_data.decode("latin-1")] if frame.additional_data else []
    elif isinstance(frame, WindowUpdateFrame):
        words.append(f"+{frame.window_increment}")
    return " ".join(words)


def code_name(code: int) -> str:
    """The name of an error code, its number if it has none."""
    return Code(code).name if code in set(Code) else str(code)
