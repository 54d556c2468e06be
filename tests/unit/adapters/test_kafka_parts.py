"""Parts of the Kafka queue that need no broker: bytes of a job, job ids, what a consumer holds."""

from __future__ import annotations

import logging

import pytest

pytest.importorskip("aiokafka", reason="extra `cluster` is not installed")

from aiokafka.errors import GroupAuthorizationFailedError, GroupCoordinatorNotAvailableError
from hypothesis import given
from hypothesis import strategies as st

from feedcore.adapters.contracts.job_ids import SHARDS, JobIds, minute_of, shard_of, timestamp_us
from feedcore.adapters.kafka import consumer
from feedcore.adapters.kafka import job_wire as jobwire
from feedcore.adapters.kafka.claims import Claims, Partition
from feedcore.adapters.kafka.dead_letters import id_of_unreadable
from feedcore.clock import ManualClock
from feedcore.ports import FanoutJob, JobKind, Lane

START_MS = 1_750_000_000_000
ONE = Partition("lane", 1)
TWO = Partition("lane", 2)
IDS = st.integers(0, 2**63 - 1)
JOBS = st.builds(
    FanoutJob,
    job_id=IDS,
    kind=st.sampled_from(JobKind),
    lane=st.sampled_from(Lane),
    content_id=IDS,
    author_id=IDS,
    user_id=IDS,
    entry=st.one_of(st.just(b""), st.binary(min_size=20, max_size=20)),
    after=IDS,
    delivered=st.integers(0, 2**40),
    attempts=st.integers(0, 1_000),
    created_ms=st.integers(-(2**40), 2**50),
)


def job(job_id: int, lane: Lane = Lane.ALL, kind: JobKind = JobKind.POST) -> FanoutJob:
    pair = (0, 0) if kind is JobKind.POST else (9, 1)
    return FanoutJob(job_id, kind, lane, job_id, *pair, b"", 0, 0, 0, START_MS)


@given(JOBS)
def test_a_job_is_read_as_it_was_written(made: FanoutJob) -> None:
    assert jobwire.decode(jobwire.encode(made)) == made


@given(st.one_of(st.binary(max_size=120), st.binary(max_size=119).map(lambda b: b"\x01" + b)))
def test_other_bytes_are_unreadable_and_nothing_else(data: bytes) -> None:
    try:
        made = jobwire.decode(data)
    except jobwire.Unreadable:
        return
    assert jobwire.encode(made)[:3] == data[:3]


@given(JOBS, st.integers(2, 255))
def test_another_version_is_unreadable(made: FanoutJob, version: int) -> None:
    with pytest.raises(jobwire.Unreadable, match=f"version {version}"):
        jobwire.decode(bytes([version]) + jobwire.encode(made)[1:])


@pytest.mark.parametrize("field", [{"after": -1}, {"job_id": 2**64}, {"entry": b"short"}])
def test_what_has_no_place_in_the_bytes_is_refused(field: dict) -> None:
    made = job(1)
    values = {name: getattr(made, name) for name in FanoutJob.__slots__} | field
    with pytest.raises(ValueError):
        jobwire.encode(FanoutJob(**values))


@given(st.lists(st.integers(-3_000, 3_000), min_size=1, max_size=300))
def test_job_ids_and_their_times_ascend_whatever_the_clock_does(steps: list[int]) -> None:
    clock = ManualClock(START_MS)
    made = JobIds(3, 5, clock)
    found = []
    for step in steps:
        clock.move_to(clock.now_ms() + step)
        found.append(made.new_id())
    assert found == sorted(set(found))
    times = [timestamp_us(one) for one in found]
    assert times == sorted(set(times))


def test_job_ids_of_one_millisecond_and_of_many_fall_into_all_shards() -> None:
    clock = ManualClock(START_MS)
    made = JobIds(0, 1, clock)
    burst = [made.new_id() for _ in range(2_500)]
    assert burst == sorted(set(burst))
    assert timestamp_us(burst[-1]) - START_MS * 1_000 < 2_600
    slow = []
    for _ in range(800):
        clock.advance(3)
        slow.append(made.new_id())
    for found in (burst, slow):
        counts = [sum(shard_of(one) == shard for one in found) for shard in range(SHARDS)]
        assert min(counts) * SHARDS >= 0.9 * len(found)
    assert minute_of(slow[-1]) == clock.now_ms() // 60_000


def test_what_is_committed_is_never_beyond_what_is_not_done() -> None:
    claims = Claims()
    for offset in range(5, 10):
        claims.take(ONE, offset, job(offset), offset)
    assert claims.to_commit() == {ONE: 5}
    claims.committed({ONE: 5})
    for offset in (6, 7, 9):
        claims.done(job(offset))
    assert claims.to_commit() == {}
    claims.done(job(5))
    assert claims.to_commit() == {ONE: 8}
    claims.done(job(8))
    assert claims.to_commit() == {ONE: 10}


def test_one_job_in_two_messages_is_one_claim_done_at_both_places() -> None:
    claims = Claims()
    claims.take(ONE, 0, job(1), 10)
    claims.take(TWO, 4, job(1), 11)
    assert claims.give(tuple(Lane), 10) == [job(1)]
    claims.done(job(1))
    assert claims.to_commit() == {ONE: 1, TWO: 5}


def test_partitions_that_are_taken_away_take_their_claims_along() -> None:
    claims = Claims()
    claims.take(ONE, 0, job(1), 10)
    claims.take(TWO, 0, job(1), 10)
    claims.take(ONE, 1, job(2), 10)
    claims.forget([ONE])
    assert claims.holds(job(1))
    assert not claims.holds(job(2))
    claims.done(job(2))
    claims.done(job(1))
    assert claims.to_commit() == {TWO: 1}
    claims.take(ONE, 0, job(2), 10)
    assert claims.holds(job(2))


def test_a_log_that_begins_anew_is_taken_from_its_beginning() -> None:
    claims = Claims()
    claims.take(ONE, 1_000, job(1), 10)
    claims.take(ONE, 0, job(2), 11)
    assert not claims.holds(job(1))
    claims.done(job(2))
    assert claims.to_commit() == {ONE: 1}


def test_only_the_oldest_of_a_pair_is_given() -> None:
    claims = Claims()
    kinds = {3: JobKind.REMOVE, 2: JobKind.BACKFILL, 4: JobKind.BACKFILL}
    for offset, (job_id, kind) in enumerate(kinds.items()):
        claims.take(ONE, offset, job(job_id, kind=kind), 10)
    for job_id in (2, 3, 4):
        assert [one.job_id for one in claims.give(tuple(Lane), 10)] == [job_id]
        claims.done(job(job_id, kind=kinds[job_id]))
    assert claims._pairs == {}


def test_new_ones_first_then_lanes_then_time() -> None:
    claims = Claims()
    claims.take(ONE, 0, job(1), 30)
    assert claims.give(tuple(Lane), 10) == [job(1)]
    claims.take(ONE, 1, job(2, Lane.REST), 10)
    claims.take(ONE, 2, job(3, Lane.ACTIVE), 20)
    claims.take(TWO, 0, job(4), 15)
    assert claims.held(Lane.ALL) == 2
    assert [one.job_id for one in claims.give(tuple(Lane), 10)] == [4, 3, 2, 1]
    assert claims.give((Lane.REST,), 10) == [job(2, Lane.REST)]
    assert not Claims().can_give(tuple(Lane))


def test_unreadable_messages_of_one_place_have_one_id_and_sort_by_time() -> None:
    early, late = id_of_unreadable("t 0 1", START_MS), id_of_unreadable("t 0 1", START_MS + 1)
    assert early == id_of_unreadable("t 0 1", START_MS)
    assert early != id_of_unreadable("t 0 2", START_MS)
    assert 0 < early < late < 2**63
    assert 0 < id_of_unreadable("t 0 1", -5) < 2**63


def test_a_coordinator_that_is_not_there_yet_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    told = logging.getLogger(consumer.COORDINATOR_LOG)
    for error in (GroupCoordinatorNotAvailableError(), GroupAuthorizationFailedError("group")):
        told.error("Group Coordinator Request failed: %s", error)
    assert [record.args for record in caplog.records] == [(error,)]
