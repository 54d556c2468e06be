"""The fan-out queue on real Kafka and Cassandra: turns, order, dead letters, lag."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from feedcore.adapters.contracts.job_ids import timestamp_us
from feedcore.adapters.cql.driver.session import Statement, Write
from feedcore.adapters.kafka.counters import KafkaCounters
from feedcore.adapters.kafka.producer import Message
from feedcore.limits import FANOUT_ATTEMPTS_MAX
from feedcore.observe import metrics
from feedcore.ports import JobKind, Lane
from tests.support.kafkaworld import World, addresses, new_world, until


@pytest.fixture
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """A queue of its own."""
    async with new_world(addresses(request)) as made:
        yield made


async def test_a_job_goes_from_its_row_to_a_worker_and_is_done_once(world: World) -> None:
    job = world.post()
    await world.put([job])
    assert await world.claim(1) == [job]

    async def rows_gone() -> bool:
        return await world.rows() == []

    await until(rows_gone)
    await world.queue.advance([(job, -1, 7)], 1_234)
    await world.queue.advance([(job, -1, 7)], 5_678)
    assert await world.queue.claim(tuple(Lane), 10) == []
    found = await world.session.read(
        Statement("SELECT lane, reach, finished_ms FROM post_fanout WHERE content_id = ?"),
        (job.content_id,),
    )
    assert [tuple(row) for row in found] == [(0, 7, 1_234)]
    lag = await world.queue.lag(world.clock.now_ms())
    assert {lane: one.jobs for lane, one in lag.items()} == dict.fromkeys(Lane, 0)
    before = metrics.OUTBOX_JOBS.labels("relayed")._value.get()
    counters = KafkaCounters(world.producer, world.outbox, world.queue, world.sweeper)
    counters.publish()
    counters.publish()
    assert metrics.OUTBOX_JOBS.labels("relayed")._value.get() == before + 1
    assert metrics.QUEUE_UP._value.get() == 1


async def test_chunks_go_on_after_jobs_that_were_there_before(world: World) -> None:
    jobs = [world.post() for _ in range(3)]
    await world.put(jobs)
    (first,) = await world.claim(1, limit=1)
    others = [job for job in jobs if job != first]
    await world.queue.advance([(first, 77, 5)], 1)
    *before, chunk = await world.claim(3)
    assert set(before) == set(others)
    assert chunk == replace(first, after=77, delivered=5)
    await world.queue.advance([(chunk, -1, 2), *((job, -1, 1) for job in others)], 9)
    found = await world.session.read(
        Statement("SELECT reach FROM post_fanout WHERE content_id = ?"), (first.content_id,)
    )
    assert [tuple(row) for row in found] == [(7,)]


async def test_what_is_neither_advanced_nor_failed_is_claimed_again_after_new_ones(
    world: World,
) -> None:
    stuck = world.post()
    await world.put([stuck])
    assert await world.claim(1) == [stuck]
    new = world.post()
    await world.put([new])
    await world.claim(2)
    assert await world.queue.claim(tuple(Lane), 10) == [new, stuck]


async def test_a_failing_job_becomes_a_dead_letter_that_can_be_replayed(world: World) -> None:
    job = world.post()
    await world.put([job])
    for attempt in range(FANOUT_ATTEMPTS_MAX):
        (claimed,) = await world.claim(1)
        assert claimed == replace(job, attempts=attempt)
        await world.queue.fail(claimed, "broken", 99)
    assert await world.queue.claim(tuple(Lane), 10) == []
    (dead,) = await world.queue.dead_letters(10)
    assert (dead.job.job_id, dead.error, dead.failed_ms) == (job.job_id, "broken", 99)
    assert await world.queue.replay([job.job_id + 1], 100) == 0
    assert await world.queue.replay([], 100) == 1
    assert await world.queue.replay([job.job_id], 100) == 0
    assert await world.queue.dead_letters(10) == []
    assert await world.claim(1) == [job]


async def test_dead_letters_come_oldest_first_and_all_are_replayed(world: World) -> None:
    jobs = [world.post() for _ in range(100)]
    for job in reversed(jobs):
        await world.dead.bury(job.job_id, world.outbox.write_of(job).parameters[3], "x", 5)
    listed = await world.queue.dead_letters(30)
    assert [dead.job.job_id for dead in listed] == [job.job_id for job in jobs[:30]]
    assert await world.queue.replay([job.job_id for job in jobs[:10]], 6) == 10
    assert await world.queue.replay([], 6) == 90
    assert set(await world.claim(100)) == set(jobs)


async def test_bytes_that_are_no_job_are_put_away_and_stop_nothing(world: World) -> None:
    topic = world.options.topic(Lane.ALL)
    good = world.post()
    blobs = [b"", b"\x00", b"\xff" * 80, world.outbox.write_of(good).parameters[3][:-1]]
    for blob in blobs:
        await world.producer.send(Message(topic, b"k", blob))
    await world.put([good])
    assert await world.claim(1) == [good]

    async def all_put_away() -> bool:
        await world.queue.claim(tuple(Lane), 10)
        return len(await world.queue.dead_letters(10)) == len(blobs)

    await until(all_put_away)
    rows = await world.session.read(Statement("SELECT job, error FROM dead_letters"))
    assert sorted(bytes(row[0]) for row in rows) == sorted(blobs)
    assert all(topic in row[1] for row in rows)
    assert await world.queue.replay([], 1) == 0
    assert len(await world.queue.dead_letters(10)) == len(blobs)
    await world.queue.advance([(good, -1, 1)], 1)
    assert (await world.queue.lag(1))[Lane.ALL].jobs == 0


async def test_removals_and_backfills_of_one_pair_keep_their_order(world: World) -> None:
    kinds = [JobKind.BACKFILL, JobKind.REMOVE, JobKind.BACKFILL, JobKind.REMOVE]
    jobs = [world.of_pair(kind, 1, 9) for kind in kinds]
    other = world.of_pair(JobKind.BACKFILL, 2, 9)
    await world.put([*jobs, other])
    served = []
    while len(served) < len(jobs) + 1:
        claimed = await world.claim(1)
        assert len([job for job in claimed if job.user_id == 1]) <= 1
        served += claimed
        await world.queue.advance([(job, -1, 0) for job in claimed], 1)
    assert [job for job in served if job.user_id == 1] == jobs


async def test_lanes_that_are_not_asked_for_wait_and_active_goes_first(world: World) -> None:
    rest = [world.post(lane=Lane.REST) for _ in range(5)]
    active = [world.post(lane=Lane.ACTIVE) for _ in range(5)]
    await world.put(rest)
    await world.put(active)
    assert set(await world.claim(5, lanes=(Lane.ALL, Lane.ACTIVE))) == set(active)
    assert set(await world.queue.claim((Lane.ACTIVE,), 10)) == set(active)
    lag = await world.queue.lag(world.clock.now_ms() + 1_000)
    assert {lane: one.jobs for lane, one in lag.items()} == {
        Lane.ALL: 0,
        Lane.ACTIVE: 5,
        Lane.REST: 5,
    }
    assert 1_000 <= lag[Lane.REST].oldest_ms < 60_000
    await world.queue.advance([(job, -1, 1) for job in active], 1)
    assert set(await world.claim(5)) == set(rest)


async def test_finished_backfills_and_rebuilds_end_their_rows_but_not_newer_ones(
    world: World,
) -> None:
    backfill = world.of_pair(JobKind.BACKFILL, 1, 9)
    rebuild = world.of_pair(JobKind.REBUILD, 2, 0)
    superseded = world.of_pair(JobKind.BACKFILL, 3, 9)
    newer = world.of_pair(JobKind.BACKFILL, 3, 9)
    await _viewer_row(world, 13, 9, backfill.user_id, backfill.job_id)
    await _viewer_row(world, 16, 0, rebuild.user_id, rebuild.job_id)
    await _viewer_row(world, 13, 9, 3, superseded.job_id)
    await _viewer_row(world, 13, 9, 3, newer.job_id)
    await world.put([backfill, rebuild, superseded])
    jobs = await world.claim(3)
    await world.queue.advance([(job, -1, 1) for job in jobs], 1)
    rows = await world.session.read(Statement("SELECT user_id, kind, extra FROM viewer"))
    assert [tuple(row) for row in rows] == [(3, 13, newer.job_id)]
    assert sorted(world.heard.viewers) == [1, 2, 3]


async def _viewer_row(world: World, kind: int, target: int, user_id: int, job_id: int) -> None:
    statement = Statement(
        "INSERT INTO viewer (user_id, kind, target_id, extra) VALUES (?, ?, ?, ?) USING TIMESTAMP ?"
    )
    row = (user_id, kind, target, job_id, timestamp_us(job_id))
    await world.session.write_many([Write(statement, row)])
