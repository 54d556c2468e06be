from collections.abc import Callable
from typing import Any

from feedcore._native.http2.grpcframe import MetadataValue

Pairs = list[tuple[str, MetadataValue]]

class Rules:
    def __init__(self, bounds: Any) -> None: ...

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
    def __init__(
        self,
        method: Any,
        chain: Any,
        one_request: bool,
        one_reply: bool,
        fast: FastHandler | None = None,
    ) -> None: ...

class Link: ...

class Stream:
    stream_id: int
    row: Row
    owner: Any
    begun: bool
    wants_message: bool
    wants_room: bool
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
    def abort(self, code: int, message: str) -> None: ...
    def reset(self, error_code: int) -> None: ...
