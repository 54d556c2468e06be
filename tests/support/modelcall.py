"""One call as the model of a session keeps it, and what its bytes mean by independent references.

Not for what happens to it: that is tests/support/callmodel.py.
"""

from __future__ import annotations

import gzip
import math
from dataclasses import dataclass, field
from typing import Any

from feedcore._native.http2.grpcframe import compress
from tests.support.peer import PeerStream

CANCELLED, INVALID, LATE, FULL, UNIMPLEMENTED, INTERNAL = 1, 3, 4, 8, 12, 13
RESET_REFUSED, RESET_CANCEL, RESET_CALM = 7, 8, 11
START_S = 1_000.0
REQUEST_MAX = 4_000
KINDS = {
    "unary": (True, True),
    "client": (False, True),
    "server": (True, False),
    "bidi": (False,) * 2,
}
FAST = "fast"  # a unary method that is answered while it is read; declines messages that begin so
DECLINED = b"slow"
ENDLESS = 10**9

# Request headers that are refused, and with which status.
BAD_REQUESTS: dict[str, tuple[dict[str, str], int]] = {
    "method": ({":method": "GET"}, INTERNAL),
    "type": ({"content-type": "application/grpcfoo"}, INVALID),
    "timeout": ({"grpc-timeout": "1s"}, INTERNAL),
    "binary": ({"token-bin": "a"}, INTERNAL),
    "path": ({":path": "/nobody"}, UNIMPLEMENTED),
    "encoding": ({"grpc-encoding": "br"}, UNIMPLEMENTED),
    "late": ({"grpc-timeout": "0n"}, LATE),
    "size": ({"big": "x" * 9_000}, FULL),
}


@dataclass(eq=False)
class ModelCall:
    """One call. Fields in the order of its life."""

    kind: str
    peer: PeerStream = None  # type: ignore[assignment]
    gzip: bool = False
    timeout_s: float = math.inf
    refusal: int | None = None  # the status that its headers earn
    plan: bytearray = field(default_factory=bytearray)  # of the request, not written yet
    coming: bool = False  # the session has the beginning of its headers
    begun: bool = False  # and their end
    whole: bool = False  # and END_STREAM
    deadline: float = math.inf
    body: bytearray = field(default_factory=bytearray)  # of the request, as the session has it
    requests: list[tuple[bool, bytes]] = field(default_factory=list)
    taken: int = 0
    stream: Any = None  # of the session, from the CALL event on
    owned: bool = False  # a handler is at work
    told: int = 0  # CLOSED events
    waits: bool = False  # for a message
    waits_room: bool = False
    replies: list[tuple[bool, bytes]] = field(default_factory=list)
    zips: bool | None = None  # whether they may be compressed
    sent: int = 0  # bytes of them, with their prefixes
    seen: int = 0  # bytes of them that the caller has
    touched: float = 0.0  # when bytes last came or went
    cause: tuple[str, int] | None = None
    by_handler: bool = False  # the cause
    closed: bool = False  # for HTTP/2

    @property
    def one_request(self) -> bool:
        return KINDS.get(self.kind, KINDS["unary"])[0]

    @property
    def one_reply(self) -> bool:
        return KINDS.get(self.kind, KINDS["unary"])[1]

    @property
    def queued(self) -> int:
        """Bytes of replies that have not gone out."""
        return 0 if self.closed else self.sent - len(self.peer.data)


def gzip_of(message: bytes) -> bytes:
    """As the session compresses."""
    return compress(message)


def unsqueezed(message: bytes) -> tuple[bytes, int]:
    """(plain, 0), or (b"", the status that the message earns)."""
    try:
        plain = gzip.decompress(message)
    except (OSError, EOFError):
        return b"", INTERNAL
    return (b"", FULL) if len(plain) > REQUEST_MAX else (plain, 0)
