"""Errors carry decisions: whose fault, whether a retry can help, and the status the caller gets.

Raised once, where the fault is seen, with the field, the value's shape and the bound.
`server/status.py` is the only place that turns them into a gRPC status; nothing else in the project
names a gRPC status code.
"""

from __future__ import annotations

from enum import StrEnum


class Fault(StrEnum):
    """Who has to act."""

    CALLER = "caller"
    ENGINE = "engine"
    DEPENDENCY = "dependency"


class FeedcoreError(Exception):
    """Base of all errors the engine raises on purpose.

    `status` is the lower-case name of a gRPC status; `reason` a word that code can match, finer
    than the status, and never given another meaning (docs/api.md has them all); `retriable` says
    whether the same call may succeed later, `retry_after_ms` when, where that is known.
    """

    fault = Fault.ENGINE
    retriable = False
    status = "internal"
    reason = "INTERNAL_FAULT"
    retry_after_ms: int | None = None


class InvalidField(FeedcoreError):
    """A request field is out of bounds: `field: what was seen; what is allowed`."""

    fault = Fault.CALLER
    status = "invalid_argument"
    reason = "FIELD_INVALID"

    def __init__(self, field: str, seen: str, bound: str) -> None:
        super().__init__(f"{field}: {seen}; {bound}")
        self.field = field
        self.seen = seen
        self.bound = bound


class InvalidCursor(InvalidField):
    """A cursor or head token that cannot be served; `flaw`: malformed, forged, foreign, version or
    expired.
    """

    def __init__(self, flaw: str, seen: str, *, field: str = "cursor") -> None:
        super().__init__(field, f"{flaw} ({seen})", "load the first page again, with no cursor")
        self.flaw = flaw
        self.reason = f"CURSOR_{flaw.upper()}"


class NotFound(FeedcoreError):
    """The thing named does not exist (or is no longer kept)."""

    fault = Fault.CALLER
    status = "not_found"
    reason = "NOT_FOUND"


class NotPermitted(FeedcoreError):
    """The caller names a thing that belongs to somebody else."""

    fault = Fault.CALLER
    status = "permission_denied"
    reason = "NOT_PERMITTED"


class IdempotencyConflict(FeedcoreError):
    """One idempotency key, two different requests."""

    fault = Fault.CALLER
    status = "already_exists"
    reason = "IDEMPOTENCY_KEY_REUSED"


class FailedPrecondition(FeedcoreError):
    """The state of the system does not allow it; the message says which state and what to do."""

    fault = Fault.CALLER
    status = "failed_precondition"
    reason = "PRECONDITION_FAILED"


class Overloaded(FeedcoreError):
    """A bounded queue is full; try again after `retry_after_ms`."""

    retriable = True
    status = "resource_exhausted"
    reason = "OVERLOADED"
    retry_after_ms: int

    def __init__(self, what: str, bound: str, retry_after_ms: int = 100) -> None:
        super().__init__(f"{what} is full ({bound}); retry after {retry_after_ms} ms")
        self.retry_after_ms = retry_after_ms


class Behind(Overloaded):
    """More work waits here than can be done in time: reads are refused until it is done."""

    reason = "SERVER_BEHIND"

    def __init__(self, behind_ms: float, retry_after_ms: int) -> None:
        FeedcoreError.__init__(
            self, f"{behind_ms:g} ms of work wait already; retry after {retry_after_ms} ms"
        )
        self.retry_after_ms = retry_after_ms


class RequestTooLarge(FeedcoreError):
    """A request of more bytes than its method can have."""

    fault = Fault.CALLER
    status = "resource_exhausted"
    reason = "REQUEST_TOO_LARGE"

    def __init__(self, seen_bytes: int, bytes_max: int) -> None:
        super().__init__(f"request: {seen_bytes} bytes; at most {bytes_max}")


class ReplyTooLarge(FeedcoreError):
    """A reply that callers would not take: ask for less."""

    status = "resource_exhausted"
    reason = "REPLY_TOO_LARGE"

    def __init__(self, seen_bytes: int, bytes_max: int) -> None:
        super().__init__(f"reply: {seen_bytes} bytes; at most {bytes_max}; ask for less at once")


class StoreFull(FeedcoreError):
    """The disk has no room: nothing was written, nothing is lost; free space, then retry."""

    retriable = True
    status = "resource_exhausted"
    reason = "STORE_FULL"


class Unavailable(FeedcoreError):
    """A dependency did not answer; the call changed nothing and may be retried."""

    fault = Fault.DEPENDENCY
    retriable = True
    status = "unavailable"
    reason = "DEPENDENCY_UNAVAILABLE"


class BadAnswer(Unavailable):
    """A dependency failed by itself, or answered what its contract does not allow: the same call
    would end the same way.
    """

    retriable = False
    reason = "DEPENDENCY_FAILED"


class ClockWentBack(FeedcoreError):
    """The clock is behind an id that was already given out by more than we wait for."""

    retriable = True
    status = "unavailable"
    reason = "CLOCK_WENT_BACK"


class StoreError(FeedcoreError):
    """A store that cannot be opened: newer, foreign, corrupt, or in use. Nothing was changed."""

    status = "failed_precondition"
    reason = "STORE_UNUSABLE"


class StoreDamaged(StoreError):
    """The system of record is damaged: what it held there is lost unless there is a backup."""

    status = "data_loss"
    reason = "STORE_DAMAGED"


class StoreReadOnly(StoreError):
    """Nothing can be written; what there is can be read. Nothing was changed."""

    status = "unavailable"
    reason = "STORE_READ_ONLY"
    retriable = True


class MachineFault(FeedcoreError):
    """The machine below gave up: a disk that does not read, a directory that is gone."""

    status = "unavailable"
    reason = "MACHINE_FAULT"
    retriable = True


class OutOfResources(FeedcoreError):
    """No memory or no descriptors are left for this call; others may end and give some back."""

    status = "resource_exhausted"
    reason = "OUT_OF_RESOURCES"
    retriable = True


class ConfigError(FeedcoreError):
    """Settings that do not validate; the message names the key, its source, and the bound."""

    fault = Fault.CALLER
    status = "failed_precondition"
    reason = "CONFIG_INVALID"
