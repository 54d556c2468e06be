"""FanoutQueue: fan-out jobs as bounded continuations. At least once; deliveries are idempotent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from feedcore.domain.jobs import JobKind, Lane


@dataclass(frozen=True, slots=True)
class FanoutJob:
    """(what, next follower token, lane). `entry` is the packed entry of a POST job, else empty."""

    job_id: int
    kind: JobKind
    lane: Lane = Lane.ALL
    content_id: int = 0
    author_id: int = 0
    user_id: int = 0
    entry: bytes = b""
    after: int = 0  # continuation: followers with a larger id are still to come
    delivered: int = 0
    attempts: int = 0
    created_ms: int = 0


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
