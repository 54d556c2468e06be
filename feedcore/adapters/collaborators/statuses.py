"""gRPC statuses of collaborators -> errors of the engine. A total function: every status has one.

    the request is at fault    invalid_argument, out_of_range, not_found, permission_denied,
                               failed_precondition, already_exists
    later it may succeed       unavailable, aborted, cancelled; resource_exhausted
    no answer in time          deadline_exceeded: TimeoutError, so that the stack judges it
    the service is at fault    all others: unknown, internal, data_loss, unimplemented, ...

Not for our own statuses: server/status.py has those.
"""

from __future__ import annotations

import grpc.aio
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import RetryInfo
from grpc_status import rpc_status

from feedcore.errors import (
    BadAnswer,
    FailedPrecondition,
    FeedcoreError,
    InvalidField,
    NotFound,
    NotPermitted,
    Overloaded,
    Unavailable,
)

RETRY_AFTER_KEY = "retry-after-ms"
RETRY_AFTER_DEFAULT_MS = 100
RETRY_AFTER_MOST_MS = 60_000  # what a peer says is not trusted to be a number, nor a sane one
DETAIL_CHARS_MAX = 200

_RETRIABLE = ("unavailable", "aborted", "cancelled")
_REQUESTS_FAULT: dict[str, type[FeedcoreError]] = {
    "not_found": NotFound,
    "permission_denied": NotPermitted,
    "failed_precondition": FailedPrecondition,
    "already_exists": FailedPrecondition,
}


def error_of(name: str, error: grpc.aio.AioRpcError) -> Exception:
    """What a call of the service `name` that ended so raises."""
    status = error.code().name.lower()
    detail = (error.details() or "no details")[:DETAIL_CHARS_MAX]
    text = f"{name}: {status}: {detail}"
    if status in _RETRIABLE:
        return Unavailable(text)
    if status == "deadline_exceeded":
        return TimeoutError(text)
    if status == "resource_exhausted":
        return Overloaded(name, detail, _retry_after_ms(error))
    if status in ("invalid_argument", "out_of_range"):
        return InvalidField(name, detail, "as its contract says")
    kind = _REQUESTS_FAULT.get(status, BadAnswer)
    return kind(text)


def _retry_after_ms(error: grpc.aio.AioRpcError) -> int:
    for key, value in error.trailing_metadata() or ():
        if key == RETRY_AFTER_KEY and isinstance(value, str) and value.isascii():
            if value.isdigit() and len(value) < 10:
                return min(int(value), RETRY_AFTER_MOST_MS)
    return _retry_info_ms(error) or RETRY_AFTER_DEFAULT_MS


def _retry_info_ms(error: grpc.aio.AioRpcError) -> int:
    """Of gRPC's richer error model; 0 if the status has none that can be read."""
    retry = RetryInfo()
    try:
        status = rpc_status.from_call(error)
        found = any(detail.Unpack(retry) for detail in status.details) if status else False
    except (DecodeError, ValueError):
        return 0
    after_ms = retry.retry_delay.ToMilliseconds() if found else 0
    return min(max(after_ms, 0), RETRY_AFTER_MOST_MS)
