"""Errors -> gRPC status, with details. The only place of the project that names grpc.StatusCode.

`outcome_of` is a total function: every exception has an outcome. Errors of the engine carry their
own status, reason and message, and what SQLite and the operating system say is one of them;
anything else is a bug, answered with UNKNOWN and the trace id, so that nothing of the inside leaks.
asyncio.CancelledError has an outcome for metrics and logs only; it is never swallowed.

Every status but OK goes out with a google.rpc.Status in its trailers: an ErrorInfo whose reason
code can match, a BadRequest where one field is at fault, a RetryInfo where it is known when to try
again. `docs/api.md` lists the reasons; they never change their meaning. What the native transport
refuses by itself comes here, too (`refusal_trailers`).
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import grpc
from google.protobuf import duration_pb2
from google.rpc import error_details_pb2, status_pb2

from feedcore.adapters.common.machine import fault_of
from feedcore.errors import FeedcoreError, InvalidField

PUSHBACK_KEY = "grpc-retry-pushback-ms"  # the same for gRPC's own retries (gRFC A6)
RETRY_AFTER_KEY = "retry-after-ms"  # trailing metadata: when a refused call may be tried again
DETAILS_KEY = "grpc-status-details-bin"  # of gRPC's richer error model
DOMAIN = "feedcore"  # of reasons

# Trailers must fit into a client's header limit (8 KiB by default). A message is sent twice, once
# percent-encoded, which makes three bytes of one that is not printable ASCII; with the description
# of a field, and base64, that is 7 KB at most.
MESSAGE_CHARS_MAX = 1_024
MESSAGE_CHARS_MAX_WIDE = 256  # of a message that is not ASCII: four bytes for each
FIELD_CHARS_MAX = 200
DESCRIPTION_CHARS_MAX = 512

# Reasons of what never becomes an exception of the engine, and of what the transport refuses.
BUG, HUNG_UP, DEADLINE_PASSED = "BUG", "CANCELLED", "DEADLINE_PASSED"
_USUAL = {  # of a status that the native transport decides, where it says no other
    "cancelled": "REQUEST_STALLED",
    "deadline_exceeded": DEADLINE_PASSED,
    "internal": "REQUEST_MALFORMED",
    "resource_exhausted": "REQUEST_TOO_LARGE",
    "unimplemented": "METHOD_UNKNOWN",
}
TRANSPORT_REASONS = frozenset(
    {
        *_USUAL.values(),
        "ENCODING_UNKNOWN",
        "HEADERS_INVALID",
        "INTERNAL_FAULT",
        "METADATA_TOO_LARGE",
        "REQUESTS_WAITING",
        "SERVER_STOPPING",
    }
)

_BY_NAME = {code.name.lower(): code for code in grpc.StatusCode}
_BY_NUMBER = {code.value[0]: name for name, code in _BY_NAME.items()}

Trailers = tuple[tuple[str, str | bytes], ...]


class Outcome(NamedTuple):
    """How a call ended: `name` is the lower-case status name, `expected` is False for bugs. `field`
    and `description`: what is wrong with one field of the request. `trace_id`: of a bug.
    """

    name: str
    message: str
    reason: str = ""
    field: str = ""
    description: str = ""
    retry_after_ms: int | None = None
    trace_id: str = ""
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

    @property
    def trailers(self) -> Trailers:
        """Metadata that goes out with the status; none with OK."""
        if not self.reason:
            return ()
        details: Trailers = ((DETAILS_KEY, self._status().SerializeToString()),)
        if self.retry_after_ms is None:
            return details
        after_ms = str(self.retry_after_ms)
        return ((RETRY_AFTER_KEY, after_ms), (PUSHBACK_KEY, after_ms), *details)

    def _status(self) -> status_pb2.Status:
        status = status_pb2.Status(code=self.number, message=self.message)
        metadata = {"trace_id": self.trace_id} if self.trace_id else {}
        status.details.add().Pack(
            error_details_pb2.ErrorInfo(reason=self.reason, domain=DOMAIN, metadata=metadata)
        )
        if self.field:
            violation = error_details_pb2.BadRequest.FieldViolation(
                field=self.field, description=self.description, reason=self.reason
            )
            status.details.add().Pack(error_details_pb2.BadRequest(field_violations=[violation]))
        if self.retry_after_ms is not None:
            delay = duration_pb2.Duration()
            delay.FromMilliseconds(self.retry_after_ms)
            status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
        return status


OK = Outcome("ok", "")
CANCELLED = Outcome("cancelled", "the caller ended the call, or its deadline passed", HUNG_UP)
LATE = Outcome(
    "deadline_exceeded", "the deadline passed before the answer was ready", DEADLINE_PASSED
)


def outcome_of(error: BaseException, trace_id: str) -> Outcome:
    """The status a caller gets for `error`."""
    error = fault_of(error) or error
    if isinstance(error, FeedcoreError):
        field = description = ""
        if isinstance(error, InvalidField):
            field = _text(error.field, FIELD_CHARS_MAX)
            description = _text(f"{error.seen}; {error.bound}", DESCRIPTION_CHARS_MAX)
        return Outcome(
            error.status if error.status in _BY_NAME else "internal",
            _text(str(error), MESSAGE_CHARS_MAX),
            error.reason,
            field,
            description,
            error.retry_after_ms,
        )
    if isinstance(error, asyncio.CancelledError):
        return CANCELLED
    if isinstance(error, TimeoutError):
        return LATE
    message = f"internal error; the log of trace {trace_id} has it"
    return Outcome("unknown", message, BUG, trace_id=trace_id, expected=False)


def refusal_trailers(code: int, message: str, reason: str = "") -> list[tuple[str, str | bytes]]:
    """What goes out with a status that the native transport decides by itself; `reason` if it is
    not the usual one."""
    name = _BY_NUMBER[code]
    outcome = Outcome(name, message, reason or _USUAL.get(name, "INTERNAL_FAULT"))
    return list(outcome.trailers)


def _text(text: str, chars_max: int) -> str:
    """Within its bound, and what can be encoded."""
    if text.isascii():
        return text[:chars_max]
    return text[: min(chars_max, MESSAGE_CHARS_MAX_WIDE)].encode("utf-8", "replace").decode()
