"""Exceptions -> gRPC status. The only place of the project that names grpc.StatusCode.

`outcome_of` is a total function: every exception has an outcome. Errors of the engine carry their
own status and message, and what SQLite and the operating system say is one of them; anything else
is a bug, answered with UNKNOWN and the trace id, so that nothing of the inside leaks.
asyncio.CancelledError has an outcome for metrics and logs only; it is never swallowed.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import grpc

from feedcore.adapters.common.machine import fault_of
from feedcore.errors import FeedcoreError, Overloaded

PUSHBACK_KEY = "grpc-retry-pushback-ms"  # the same for gRPC's own retries (gRFC A6)
RETRY_AFTER_KEY = "retry-after-ms"  # trailing metadata: when a refused call may be tried again

# HTTP/2 trailers must fit into a client's header limit (8 KiB by default) together with everything
# else.
MESSAGE_CHARS_MAX = 1_024

_BY_NAME = {code.name.lower(): code for code in grpc.StatusCode}


class Outcome(NamedTuple):
    """How a call ended: `name` is the lower-case status name, `expected` is False for bugs."""

    name: str
    message: str
    trailers: tuple[tuple[str, str], ...] = ()
    expected: bool = True

    @property
    def code(self) -> grpc.StatusCode:
        """The code for grpcio."""
        return _BY_NAME[self.name]

    @property
    def number(self) -> int:
        """The code on the wire."""
        number: int = self.code.value[0]
        return number


OK = Outcome("ok", "")
CANCELLED = Outcome("cancelled", "the caller ended the call, or its deadline passed")


def outcome_of(error: BaseException, trace_id: str) -> Outcome:
    """The status a caller gets for `error`."""
    error = fault_of(error) or error
    if isinstance(error, FeedcoreError):
        trailers: tuple[tuple[str, str], ...] = ()
        if isinstance(error, Overloaded):
            after_ms = str(error.retry_after_ms)
            trailers = ((RETRY_AFTER_KEY, after_ms), (PUSHBACK_KEY, after_ms))
        name = error.status if error.status in _BY_NAME else "internal"
        return Outcome(name, str(error)[:MESSAGE_CHARS_MAX], trailers)
    if isinstance(error, asyncio.CancelledError):
        return CANCELLED
    if isinstance(error, TimeoutError):
        return Outcome("deadline_exceeded", "the deadline passed before the answer was ready")
    return Outcome("unknown", f"internal error; the log of trace {trace_id} has it", (), False)
