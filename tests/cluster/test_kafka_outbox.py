"""The outbox: rows that nobody relayed are swept, a Kafka that is away loses nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from feedcore.adapters.contracts.job_ids import JobIds
from feedcore.adapters.cql.driver.session import Statement
from feedcore.adapters.kafka import sweeper as sweeping
from feedcore.adapters.kafka.outbox import RELAY_WAITING_MAX
from feedcore.clock import ManualClock
from feedcore.limits import MINUTE_MS, RETENTION_MS
from feedcore.ports import Lane
from tests.support.kafkaworld import World, addresses, new_world, until

# With `make test` one process has all clusters, and starts each once.
pytestmark = pytest.mark.xdist_group("clusters")

OUTAGE_S = 8.0


@pytest.fixture
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """A queue of its own."""
    async with new_world(addresses(request)) as made:
        yield made


async def sweep(world: World) -> None:
    """Turns until nothing is left to do at once."""
    while await world.sweeper.turn():
        pass


async def test_rows_that_nobody_relayed_are_relayed_once_they_are_old_enough(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sweep(world)
    jobs = [world.post() for _ in range(700)]
    await world.put(jobs, relay=False)
    await sweep(world)
    assert len(await world.rows()) == len(jobs), "another process may still be relaying them"
    monkeypatch.setattr(sweeping, "PASS_AGES_MS", (0, MINUTE_MS, 15 * MINUTE_MS))
    await asyncio.sleep(0.01)
    await sweep(world)
    assert await world.rows() == []
    assert world.sweeper.stats.swept == len(jobs)
    wanted = {job.job_id for job in jobs}
    await world.finish_all(world.queue, wanted, 30.0)
    assert not wanted


async def test_rows_of_the_last_week_are_found_at_the_first_start_and_never_looked_for_again(
    world: World,
) -> None:
    now_ms = world.clock.now_ms()
    ages_ms = (RETENTION_MS - 10 * MINUTE_MS, 3 * 86_400_000, 20 * MINUTE_MS, 10 * MINUTE_MS)
    jobs = [
        world.post(job_id=JobIds(0, 1, ManualClock(now_ms - age_ms)).new_id()) for age_ms in ages_ms
    ]
    await world.put(jobs, relay=False)
    await sweep(world)
    assert await world.rows() == []
    assert set(await world.claim(len(jobs))) == set(jobs)
    marks = await world.session.read(Statement("SELECT mark_ms FROM sweep_marks"))
    assert all(now_ms - 16 * MINUTE_MS < row[0] <= now_ms for row in marks)


async def test_a_shard_that_somebody_swept_just_now_is_theirs(world: World) -> None:
    other = World(world.session, world.options, node=5)
    other.producer = world.producer
    await sweep(world)
    await sweep(other)
    owners = await world.session.read(Statement("SELECT sweeper FROM sweep_marks"))
    assert {row[0] for row in owners} == {world.sweeper._name}
    assert other.sweeper._shards == {}
    await other.close()


async def test_a_row_that_is_no_job_becomes_a_dead_letter(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping, "PASS_AGES_MS", (0, MINUTE_MS, 15 * MINUTE_MS))
    job = world.post()
    write = world.outbox.write_of(job)
    bad = world.post()
    await world.session.write(write.statement, write.parameters)
    key = world.outbox.write_of(bad).parameters[:3]
    await world.session.write(write.statement, (*key, b"\x09what is this"))
    await asyncio.sleep(0.01)
    await sweep(world)
    assert await world.rows() == []
    (dead,) = await world.queue.dead_letters(10)
    assert dead.job.job_id == bad.job_id
    assert "version 9" in dead.error
    assert await world.claim(1) == [job]


async def test_more_jobs_than_may_wait_stay_rows(world: World) -> None:
    jobs = [world.post() for _ in range(RELAY_WAITING_MAX + 1)]
    world.outbox.relay(jobs)
    assert world.outbox.stats.left == len(jobs)
    world.outbox.relay(jobs[:10])
    assert len(world.outbox._waiting) == 10


async def test_a_kafka_that_goes_away_costs_publishing_nothing_and_loses_nothing(
    request: pytest.FixtureRequest,
) -> None:
    broker = request.getfixturevalue("cluster_of")("kafka", 1)
    async with new_world(addresses(request), kafka=broker.address) as world:
        before = [world.post() for _ in range(100)]
        await world.put(before)
        wanted = {job.job_id for job in before}
        await world.finish_all(world.queue, wanted, 20.0)
        broker.kill(1)
        world.sweeper.start()
        jobs, slowest_s = [], 0.0
        until_s = time.monotonic() + OUTAGE_S
        while time.monotonic() < until_s:
            job = world.post()
            started = time.monotonic()
            await world.put([job])
            slowest_s = max(slowest_s, time.monotonic() - started)
            jobs.append(job)
            await asyncio.sleep(0.01)
        assert slowest_s < 1.0
        assert len(await world.rows()) >= len(jobs) - 100
        assert await world.queue.claim(tuple(Lane), 10) == []
        await until(lambda: _is_old(world))
        await asyncio.to_thread(broker.restart, 1)
        wanted = {job.job_id for job in jobs}
        await world.finish_all(world.queue, wanted, 60.0)
        assert not wanted

        async def rows_gone() -> bool:
            return await world.rows() == []

        await until(rows_gone)
        after = world.post()
        await world.put([after])
        wanted = {after.job_id}
        await world.finish_all(world.queue, wanted, 10.0)
        assert not wanted
        await until(lambda: _is_young(world))


async def test_a_process_starts_without_kafka_and_relays_when_it_comes(
    request: pytest.FixtureRequest,
) -> None:
    broker = request.getfixturevalue("cluster_of")("kafka", 1)
    await asyncio.to_thread(broker.stop, 1)
    try:
        async with new_world(
            addresses(request), kafka=broker.node(1).address, start=False
        ) as world:
            world.producer.start()
            world.outbox.start()
            world.sweeper.start()
            jobs = [world.post() for _ in range(20)]
            await world.put(jobs)
            assert await world.queue.claim(tuple(Lane), 10) == []
            await asyncio.to_thread(broker.restart, 1)
            wanted = {job.job_id for job in jobs}
            await world.finish_all(world.queue, wanted, 60.0)
            assert not wanted
    finally:
        await asyncio.to_thread(broker.heal)


async def _is_old(world: World) -> bool:
    return world.sweeper.stats.oldest_ms > 5_000


async def _is_young(world: World) -> bool:
    return world.sweeper.stats.oldest_ms == 0
