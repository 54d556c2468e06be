"""A gRPC client on HTTP/2 without I/O, independent of what it tests: hyperframe frames, hpack
headers.

It writes into `out` and is fed what the server sent. Every frame of the server is held against the
rules of RFC 9113 and of gRPC; a breach raises `Breach`, with the stream and the rule. It keeps its
own side of the rules by itself (windows, limit of streams), unless told to write raw bytes.

What the server may do changes when it has *seen* something: `deliver` hands bytes out piece by
piece and runs what was noted at their end (`then`). With `crossing`, the server's bytes may be on
their way for a while, so that what it says may be older than what it has seen since.

Not for waiting: its driver moves the bytes.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

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
WINDOW = 65_535  # of a stream and of a connection before anybody changes it
WINDOW_MAX = 2**31 - 1
FRAME_MAX = 16_384
NO_ERROR, CANCEL = 0, 8

Header = tuple[str, str]
Then = Callable[[], None]
Part = Callable[[bytes], None]


class Breach(AssertionError):
    """The server broke a rule."""


@dataclass(eq=False)
class PeerStream:
    """One call as this side sees it."""

    number: int
    window: int  # that the server gave
    room: int  # that the server has
    half_closed: bool = False  # END_STREAM is written
    half_seen: bool = False  # and the server has it
    was_reset: bool = False  # RST_STREAM is written
    reset_seen: bool = False  # and the server has it
    headers: list[Header] | None = None
    trailers: list[Header] | None = None
    data: bytearray = field(default_factory=bytearray)
    ended: bool = False  # END_STREAM of the server
    reset_code: int | None = None  # RST_STREAM of the server

    @property
    def closed(self) -> bool:
        """Nothing more can come or go."""
        return self.was_reset or self.reset_code is not None or (self.ended and self.half_closed)

    @property
    def status(self) -> int | None:
        """The gRPC status, if one came."""
        found = dict(self.trailers or []).get("grpc-status")
        return None if found is None else int(found)

    def messages(self) -> list[tuple[bool, bytes]]:
        """Whole messages of the reply as (compressed, bytes)."""
        return split_messages(bytes(self.data))[0]


def split_messages(data: bytes) -> tuple[list[tuple[bool, bytes]], bytes]:
    """(whole messages, the rest) of length-prefixed bytes."""
    found, at = [], 0
    while len(data) - at >= 5:
        flag, length = struct.unpack_from(">BI", data, at)
        if len(data) - at - 5 < length:
            break
        found.append((flag == 1, data[at + 5 : at + 5 + length]))
        at += 5 + length
    return found, data[at:]


def framed(body: bytes, flag: int = 0) -> bytes:
    """A length-prefixed message."""
    return struct.pack(">BI", flag, len(body)) + body


@dataclass
class _Mark:
    """What to tell when `data`, the bytes before offset `end`, have been delivered."""

    end: int
    data: bytes
    then: Then | None = None
    part: Part | None = None


class Peer:
    """See the module."""

    def __init__(self, *, crossing: bool = False) -> None:
        self._crossing = crossing
        self.out = bytearray()
        self.streams: dict[int, PeerStream] = {}
        self.goaways: list[tuple[int, int, bytes]] = []
        self.pings_seen = 0  # of the server, each answered
        self.pongs_seen = 0
        self.acks_seen = 0  # of our SETTINGS
        self.window = WINDOW
        self.room = WINDOW
        self.streams_max = WINDOW_MAX
        self.answers_settings = True
        self.answers_pings = True
        self._theirs_window = WINDOW  # first window of a stream, as the server announced
        self._ours_window = WINDOW  # of a stream of replies, as the server has acknowledged
        self._frame_max = FRAME_MAX
        self._pending: deque[dict[int, int]] = deque()
        self._marks: deque[_Mark] = deque()
        self._written = 0
        self._delivered = 0
        self._next = 1
        self._encoder = hpack.Encoder()
        self._decoder = hpack.Decoder()
        self._buffer = bytearray()
        self._block: tuple[HeadersFrame, bytearray] | None = None
        self._greeted = False

    # --- writing --------------------------------------------------------------------------------
    def write(self, data: bytes, then: Then | None = None, part: Part | None = None) -> None:
        """Raw bytes; `then` runs when the server has seen the last of them, `part` for each piece
        that it has seen."""
        self.out += data
        self._written += len(data)
        if then is not None or part is not None:
            self._marks.append(_Mark(self._written, data, then, part))

    def frame(self, frame: Frame, then: Then | None = None) -> None:
        """Any frame."""
        self.write(frame.serialize(), then)

    def hello(self, settings: dict[int, int] | None = None) -> None:
        """Preface and SETTINGS."""
        self.write(PREFACE)
        self.settings(settings or {})

    def settings(self, settings: dict[int, int]) -> None:
        """Changes of ours; in force when the server acknowledges them."""
        self._pending.append(settings)
        self.frame(SettingsFrame(0, settings=settings))

    def may_open(self) -> bool:
        """Whether the server's limit of streams allows one more."""
        return sum(not stream.closed for stream in self.streams.values()) < self.streams_max

    def open(
        self,
        headers: Iterable[Header],
        end: bool = False,
        then: Then | None = None,
        pieces: int = 1,
        comes: Then | None = None,
    ) -> PeerStream:
        """A new stream; its header block goes out in so many frames. `comes` runs when the first
        frame's own header is there, `then` when the block is whole."""
        stream = PeerStream(self._next, self._theirs_window, self._ours_window)
        self._next += 2
        self.streams[stream.number] = stream
        block = self._encoder.encode(list(headers))
        step = max(1, -(-len(block) // pieces))
        parts = [block[at : at + step] for at in range(0, len(block), step)]
        first = HeadersFrame(stream.number, parts[0])
        if end:
            first.flags.add("END_STREAM")
            stream.half_closed = True
        frames: list[Frame] = [first, *(ContinuationFrame(stream.number, p) for p in parts[1:])]
        frames[-1].flags.add("END_HEADERS")

        def seen() -> None:
            if then is not None:
                then()
            if end:
                stream.half_seen = True

        whole = b"".join(frame.serialize() for frame in frames)
        self.write(whole[:9], comes)
        self.write(whole[9:], seen)
        return stream

    def may_send(self, stream: PeerStream) -> int:
        """Bytes that both windows allow."""
        return max(0, min(self.window, stream.window))

    def data(
        self,
        stream: PeerStream,
        data: bytes,
        end: bool = False,
        padding: int = 0,
        then: Then | None = None,
        part: Part | None = None,
    ) -> None:
        """One DATA frame; padding counts for the windows, too. `part` is told of each piece of the
        data, `then` of the end of the frame."""
        frame = DataFrame(stream.number, data)
        cost = len(data)
        if padding:
            frame.flags.add("PADDED")
            frame.pad_length = padding - 1
            cost += padding
        assert cost <= self.may_send(stream) or cost == 0, "the test sends more than it may"
        self.window -= cost
        stream.window -= cost
        if end:
            frame.flags.add("END_STREAM")
            stream.half_closed = True

        def seen() -> None:
            if then is not None:
                then()
            if end:
                stream.half_seen = True

        whole, head = frame.serialize(), 9 + (1 if padding else 0)
        self.write(whole[:head])
        self.write(data, None, part)
        self.write(whole[head + len(data) :], seen)

    def reset(self, stream: PeerStream, code: int = CANCEL, then: Then | None = None) -> None:
        """RST_STREAM."""
        stream.was_reset = True

        def seen() -> None:
            if then is not None:
                then()
            stream.reset_seen = True

        self.frame(RstStreamFrame(stream.number, code), seen)

    def give_room(self, stream: PeerStream | None, count: int) -> None:
        """WINDOW_UPDATE of a stream, or of the connection."""
        number = 0 if stream is None else stream.number
        self.frame(WindowUpdateFrame(number, count), lambda: self._gave_room(stream, count))

    def _gave_room(self, stream: PeerStream | None, count: int) -> None:
        if stream is None:
            self.room += count
        else:
            stream.room += count

    def ping(self, data: bytes = b"peerping") -> None:
        """PING."""
        self.frame(PingFrame(0, data))

    def deliver(self, count: int | None = None) -> bytes:
        """The next bytes for the server, which now has seen them."""
        count = len(self.out) if count is None else min(count, len(self.out))
        piece = bytes(self.out[:count])
        del self.out[:count]
        before, self._delivered = self._delivered, self._delivered + count
        while self._marks:
            mark = self._marks[0]
            begin = mark.end - len(mark.data)
            came = mark.data[max(0, before - begin) : max(0, self._delivered - begin)]
            if came and mark.part is not None:
                mark.part(came)
            if mark.end > self._delivered:
                break
            self._marks.popleft()
            if mark.then is not None:
                mark.then()
        return piece

    # --- reading --------------------------------------------------------------------------------
    def feed(self, data: bytes | None) -> None:
        """Takes what the server sent."""
        self._buffer += data or b""
        while len(self._buffer) >= 9:
            frame, length = Frame.parse_frame_header(memoryview(bytes(self._buffer[:9])))
            if len(self._buffer) < 9 + length:
                return
            frame.parse_body(memoryview(bytes(self._buffer[9 : 9 + length])))
            del self._buffer[: 9 + length]
            if length > self._frame_max:
                raise Breach(f"a frame of {length} bytes; at most {self._frame_max}")
            self._take(frame)

    def _take(self, frame: Frame) -> None:
        if not self._greeted and (not isinstance(frame, SettingsFrame) or "ACK" in frame.flags):
            raise Breach("the first frame must be SETTINGS")
        self._greeted = True
        if self._block is not None and not isinstance(frame, ContinuationFrame):
            raise Breach("a header block was interrupted")
        if isinstance(frame, SettingsFrame):
            self._take_settings(frame)
        elif isinstance(frame, PingFrame):
            self._take_ping(frame)
        elif isinstance(frame, GoAwayFrame):
            self._take_goaway(frame)
        elif isinstance(frame, WindowUpdateFrame):
            self._take_window_update(frame)
        elif isinstance(frame, HeadersFrame):
            self._block = (frame, bytearray())
            self._take_block(frame)
        elif isinstance(frame, ContinuationFrame):
            self._take_block(frame)
        elif isinstance(frame, DataFrame):
            self._take_data(frame)
        elif isinstance(frame, RstStreamFrame):
            self._take_reset(frame)
        else:
            raise Breach(f"a frame that no gRPC server sends: {frame!r}")

    def _take_settings(self, frame: SettingsFrame) -> None:
        if "ACK" in frame.flags:
            self.acks_seen += 1
            ours = self._pending.popleft()
            wanted = ours.get(SettingsFrame.INITIAL_WINDOW_SIZE)
            if wanted is not None:
                for stream in self.streams.values():
                    stream.room += wanted - self._ours_window
                self._ours_window = wanted
            self._frame_max = ours.get(SettingsFrame.MAX_FRAME_SIZE, self._frame_max)
            table = ours.get(SettingsFrame.HEADER_TABLE_SIZE)
            if table is not None:
                self._decoder.max_allowed_table_size = table
            return
        theirs = frame.settings
        wanted = theirs.get(SettingsFrame.INITIAL_WINDOW_SIZE)
        if wanted is not None:
            for stream in self.streams.values():
                stream.window += wanted - self._theirs_window
            self._theirs_window = wanted
        self.streams_max = theirs.get(SettingsFrame.MAX_CONCURRENT_STREAMS, self.streams_max)
        if self.answers_settings:
            self.frame(SettingsFrame(0, flags=["ACK"]))

    def _take_ping(self, frame: PingFrame) -> None:
        if "ACK" in frame.flags:
            self.pongs_seen += 1
        else:
            self.pings_seen += 1
            if self.answers_pings:
                self.frame(PingFrame(0, frame.opaque_data, flags=["ACK"]))

    def _take_goaway(self, frame: GoAwayFrame) -> None:
        if self.goaways and frame.last_stream_id > self.goaways[-1][0]:
            raise Breach("the last stream of a GOAWAY was raised")
        self.goaways.append((frame.last_stream_id, frame.error_code, frame.additional_data))

    def _take_window_update(self, frame: WindowUpdateFrame) -> None:
        if frame.stream_id == 0:
            self.window += frame.window_increment
            window = self.window
        else:
            stream = self._stream_of(frame)
            if stream.reset_code is not None or (stream.ended and self._has_half(stream)):
                raise Breach(f"stream {stream.number}: WINDOW_UPDATE after its end")
            stream.window += frame.window_increment
            window = stream.window
        if frame.window_increment == 0 or window > WINDOW_MAX:
            raise Breach(f"a window of {window} after an update of {frame.window_increment}")

    def _stream_of(self, frame: Frame) -> PeerStream:
        stream = self.streams.get(frame.stream_id)
        if stream is None:
            raise Breach(f"{frame!r}: nobody opened that stream")
        # A reset of its own that was queued already may cross ours: on a network nobody could tell.
        crosses = self._crossing or isinstance(frame, RstStreamFrame)
        if stream.reset_seen and not crosses:
            raise Breach(f"stream {stream.number}: {frame!r} after we reset it")
        return stream

    def _has_half(self, stream: PeerStream) -> bool:
        """Whether the server had our END_STREAM when it wrote what comes in now."""
        return stream.half_seen and not self._crossing

    def _open_stream_of(self, frame: Frame) -> PeerStream:
        stream = self._stream_of(frame)
        if stream.ended or stream.reset_code is not None:
            raise Breach(f"stream {stream.number}: {frame!r} after its end")
        return stream

    def _take_block(self, frame: HeadersFrame | ContinuationFrame) -> None:
        assert self._block is not None or isinstance(frame, HeadersFrame)
        if self._block is None or self._block[0].stream_id != frame.stream_id:
            raise Breach(f"{frame!r}: continues nothing")
        first, block = self._block
        block += frame.data
        if "END_HEADERS" not in frame.flags:
            return
        self._block = None
        headers = [(str(name), str(value)) for name, value in self._decode(bytes(block))]
        stream = self._open_stream_of(first)
        end = "END_STREAM" in first.flags
        if stream.headers is None:
            if not headers or headers[0][0] != ":status":
                raise Breach(f"stream {stream.number}: a reply without :status: {headers}")
            stream.headers = headers
        elif not end or any(name.startswith(":") for name, _ in headers):
            raise Breach(f"stream {stream.number}: second headers that are no trailers: {headers}")
        if end:
            statuses = [value for name, value in headers if name == "grpc-status"]
            if len(statuses) != 1 or str(int(statuses[0])) != statuses[0]:
                raise Breach(f"stream {stream.number}: must have one grpc-status: {headers}")
            stream.trailers = headers
            stream.ended = True

    def _decode(self, block: bytes) -> Iterable[tuple[str, str]]:
        # Latin-1: metadata may hold any byte that HTTP allows.
        for name, value in self._decoder.decode(block, raw=True):
            yield bytes(name).decode("latin-1"), bytes(value).decode("latin-1")

    def _take_data(self, frame: DataFrame) -> None:
        stream = self._open_stream_of(frame)
        if stream.headers is None:
            raise Breach(f"stream {stream.number}: DATA before headers")
        if "END_STREAM" in frame.flags:
            raise Breach(f"stream {stream.number}: ends without a status")
        cost = frame.flow_controlled_length
        if cost > max(0, min(stream.room, self.room)):
            raise Breach(
                f"stream {stream.number}: {cost} bytes; the windows allow {stream.room} and"
                f" {self.room}"
            )
        stream.room -= cost
        self.room -= cost
        stream.data += frame.data

    def _take_reset(self, frame: RstStreamFrame) -> None:
        stream = self._stream_of(frame)
        if stream.reset_code is not None:
            raise Breach(f"stream {stream.number}: reset twice")
        if stream.ended and (frame.error_code != NO_ERROR or self._has_half(stream)):
            raise Breach(f"stream {stream.number}: reset({frame.error_code}) after its status")
        if not stream.ended and frame.error_code == NO_ERROR:
            raise Breach(f"stream {stream.number}: reset(NO_ERROR) without a status")
        stream.reset_code = frame.error_code
