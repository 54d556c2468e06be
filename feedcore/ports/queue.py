"""FanoutQueue: fan-out jobs as bounded continuations. At least once; deliveries are idempotent."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import NamedTuple, Protocol


class Lane(IntEnum):
    """Which followers a job delivers to. Stored: never renumber."""

    ALL = 0
    ACTIVE = 1
    REST = 2


class JobKind(StrEnum):
    """POST: deliver `content_id` of `author_id` to followers. BACKFILL: the author's timeline to
    `user_id`. REMOVE: take the author's items out of the feed of `user_id`. REBUILD: refill the
    feed of `user_id`.
    """

    POST = "post"
    BACKFILL = "backfill"
    REMOVE = "remove"
    REBUILD = "rebuild"


@dataclass(frozen=True, slots=True)
class FanoutJob:
    """(what, next follower token, lane). `entry` is the packed entry of a POST job, else empty."""

    job_id: int
    kind: JobKind
    lane: Lane
    content_id: int
    author_id: int
    user_id: int
    entry: bytes
    after: int  # continuation: followers with a larger id are still to come
    delivered: int
    attempts: int
    created_ms: int


class DeadLetter(NamedTuple):
    """A job that failed FANOUT_ATTEMPTS_MAX times, with the last error."""

    job: FanoutJob
    error: str
    failed_ms: int


class QueueLag(NamedTuple):
    """One lane: jobs waiting and the age of the oldest, in milliseconds."""

    jobs: int
    oldest_ms: int


class FanoutQueue(Protocol):
    """One consumer at a time in the embedded profile; the state of a job is durable after each
    turn.
    """

    async def claim(self, lanes: tuple[Lane, ...], limit: int) -> list[FanoutJob]:
        """The jobs whose turn it is: least recently served first, so that no job starves
        another.
        """

    async def advance(self, progress: list[tuple[FanoutJob, int, int]], now_ms: int) -> None:
        """(job, new `after`, newly delivered): to be called after the deliveries are durable.

        A job with `after` < 0 is finished.
        """

    async def fail(self, job: FanoutJob, error: str, now_ms: int) -> None:
        """One more attempt, or a dead letter after FANOUT_ATTEMPTS_MAX."""

    async def dead_letters(self, limit: int) -> list[DeadLetter]:
        """Oldest first."""

    async def replay(self, job_ids: list[int], now_ms: int) -> int:
        """Puts dead letters back; an empty list means all. The number put back."""

    async def lag(self, now_ms: int) -> dict[Lane, QueueLag]:
        """Per lane."""
