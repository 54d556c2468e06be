"""What one consumer holds: which jobs, where their messages are, up to where all is done.

A message's life here: taken (polled) -> given (claim) -> done, or forgotten when its partition is
taken away. One job found in several messages (relayed twice) is one claim, done at all its places
at once. Invariants: of one user and author only the oldest removal or backfill is given; what was
given and not done is given again, after all that was not given yet; the offset to commit is never
beyond a message that is not done. Pure bookkeeping: no client, no waiting.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from feedcore.ports import FanoutJob, JobKind, Lane


class Partition(NamedTuple):
    """Topic and number, as the client's own TopicPartition."""

    topic: str
    partition: int


@dataclass(slots=True)
class _Claim:
    job: FanoutJob
    arrived_ms: int  # the message's time: when the job got its place in the line
    places: list[tuple[Partition, int]] = field(default_factory=list)
    given: int = 0


@dataclass(slots=True)
class _Progress:
    """One partition: messages that are not done, in order, and the offset after the last taken."""

    next_offset: int = 0
    open: dict[int, None] = field(default_factory=dict)
    committed: int = -1

    @property
    def safe(self) -> int:
        """Everything before this offset is done."""
        return next(iter(self.open), self.next_offset)


class Claims:
    """Of one consumer."""

    def __init__(self) -> None:
        self._claims: dict[FanoutJob, _Claim] = {}
        self._progress: dict[Partition, _Progress] = {}
        self._pairs: dict[tuple[int, int], list[int]] = {}

    def hold(self, partition: Partition, offset: int) -> None:
        """A message was taken; `release` when it is done."""
        progress = self._progress.setdefault(partition, _Progress())
        if offset < progress.next_offset:  # the log begins anew: nothing of before is there
            self.forget([partition])
            progress = self._progress[partition] = _Progress()
        progress.open[offset] = None
        progress.next_offset = offset + 1

    def release(self, partition: Partition, offset: int) -> None:
        """The message is done; nothing happens if it is not held any more."""
        progress = self._progress.get(partition)
        if progress is not None:
            progress.open.pop(offset, None)

    def take(self, partition: Partition, offset: int, job: FanoutJob, arrived_ms: int) -> None:
        """A message with a job was taken."""
        self.hold(partition, offset)
        claim = self._claims.get(job)
        if claim is None:
            claim = self._claims[job] = _Claim(job, arrived_ms)
            if _ordered(job):
                self._pairs.setdefault(_pair(job), []).append(job.job_id)
        claim.places.append((partition, offset))

    def held(self, lane: Lane) -> int:
        """Jobs of the lane that are not done."""
        return sum(job.lane is lane for job in self._claims)

    def holds(self, job: FanoutJob) -> bool:
        """False for a job that is done, or whose partition was taken away."""
        return job in self._claims

    def can_give(self, lanes: tuple[Lane, ...]) -> bool:
        """Whether `give` has something."""
        return any(self._free(claim, lanes) for claim in self._claims.values())

    def give(self, lanes: tuple[Lane, ...], limit: int) -> list[FanoutJob]:
        """What was never given first, then by lane, then by time."""
        free = [claim for claim in self._claims.values() if self._free(claim, lanes)]
        free.sort(
            key=lambda one: (
                one.given,
                one.job.lane is Lane.REST,
                one.arrived_ms,
                one.job.after,
                one.job.job_id,
            )
        )
        for claim in free[:limit]:
            claim.given += 1
        return [claim.job for claim in free[:limit]]

    def done(self, job: FanoutJob) -> None:
        """The job is done, or somewhere else: its messages need not come again."""
        claim = self._claims.pop(job, None)
        if claim is None:
            return
        self._unpair(job)
        for partition, offset in claim.places:
            self.release(partition, offset)

    def forget(self, partitions: Iterable[Partition]) -> None:
        """Partitions were taken away: their new owner gets what was not committed."""
        lost = set(partitions)
        for partition in lost:
            self._progress.pop(partition, None)
        for job, claim in list(self._claims.items()):
            claim.places = [place for place in claim.places if place[0] not in lost]
            if not claim.places:
                del self._claims[job]
                self._unpair(job)

    def forget_all(self) -> None:
        """The consumer has left the group."""
        self._claims.clear()
        self._progress.clear()
        self._pairs.clear()

    def to_commit(self) -> dict[Partition, int]:
        """Offsets that are safe and not committed yet."""
        return {
            partition: progress.safe
            for partition, progress in self._progress.items()
            if progress.safe > progress.committed
        }

    def committed(self, offsets: dict[Partition, int]) -> None:
        """The brokers have these."""
        for partition, offset in offsets.items():
            progress = self._progress.get(partition)
            if progress is not None:
                progress.committed = max(progress.committed, offset)

    def _free(self, claim: _Claim, lanes: tuple[Lane, ...]) -> bool:
        job = claim.job
        if job.lane not in lanes:
            return False
        return not _ordered(job) or min(self._pairs[_pair(job)]) == job.job_id

    def _unpair(self, job: FanoutJob) -> None:
        if not _ordered(job):
            return
        waiting = self._pairs[_pair(job)]
        waiting.remove(job.job_id)
        if not waiting:
            del self._pairs[_pair(job)]


def _ordered(job: FanoutJob) -> bool:
    return job.kind in (JobKind.REMOVE, JobKind.BACKFILL)


def _pair(job: FanoutJob) -> tuple[int, int]:
    return job.user_id, job.author_id
