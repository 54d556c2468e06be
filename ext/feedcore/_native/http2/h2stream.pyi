from collections.abc import Callable
from typing import Any

from feedcore._native.http2.grpcframe import MetadataValue

Pairs = list[tuple[str, MetadataValue]]

class Rules:
    request_bytes_max: int
    header_bytes_max: int
    room_bytes: int
    streams_max: int
    stream_window: int
    connection_window: int
    reset_burst: float
    reset_rate: float
    glitch_burst: float
    glitch_rate: float
    useless_burst: float
    useless_rate: float
    ping_interval_s: float
    outbound_frames_max: int
    headers_s: float
    request_stall_s: float
    stream_idle_s: float
    send_stall_s: float
    def __init__(
        self, bounds: Any, details: Callable[[int, str, str], Pairs] | None = None
    ) -> None: ...

class Account:
    held: int
    bound: int
    reserve: int
    def __init__(self, bound: int, parent: Account | None = None, reserve: int = 0) -> None: ...

class FastHandler:
    sheddable: bool

class CallableFast(FastHandler):
    def __init__(self, function: Callable[[bytes], bytes | None]) -> None: ...

class Row:
    method: Any
    chain: Any
    one_request: bool
    one_reply: bool
    fast_calls: int
    shed_calls: int
    request_bytes_max: int
    def __init__(
        self,
        method: Any,
        chain: Any,
        one_request: bool,
        one_reply: bool,
        fast: FastHandler | None = None,
        request_bytes_max: int = 0,
    ) -> None: ...

class Link: ...

class Stream:
    stream_id: int
    row: Row
    owner: Any
    begun: bool
    wants_message: bool
    wants_room: bool
    standing: bool
    closed: bool
    ended: bool
    request_done: bool
    request_compressed: bool
    deadline: float
    queued: int
    def take_request(self) -> bytes | None: ...
    def take(self) -> bytes | None: ...
    def has_message(self) -> bool: ...
    def metadata(self) -> tuple[tuple[str, MetadataValue], ...]: ...
    def reply(self, message: bytes, gzip: bool, initial: Pairs, trailers: Pairs) -> bool: ...
    def send(self, message: bytes, gzip: bool, initial: Pairs) -> bool: ...
    def finish(
        self, code: int, message: str, trailers: Pairs, initial: Pairs, gzip: bool = False
    ) -> bool: ...
    def abort(self, code: int, message: str, reason: str = "") -> None: ...
    def reset(self, error_code: int) -> None: ...
