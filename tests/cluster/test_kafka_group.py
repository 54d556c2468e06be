"""Several workers: partitions change hands, workers are killed, and every job is finished."""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections.abc import AsyncIterator

import pytest

from feedcore.adapters.cql.driver.session import Statement
from feedcore.ports import Lane
from tests.support.kafkaworker import CHUNKS, TABLE
from tests.support.kafkaworld import Addresses, World, addresses, new_world, until

LONG = os.environ.get("FEEDCORE_LONG") == "1"
JOBS = 500
KILLS = 10 if LONG else 3  # each costs a session of 6 s


@pytest.fixture
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """A queue of its own."""
    async with new_world(addresses(request)) as made:
        yield made


async def test_no_job_is_lost_when_a_second_worker_comes_and_goes(world: World) -> None:
    first, jobs = world.queue, [world.post() for _ in range(300)]
    await world.put(jobs)
    held = await world.claim(50)
    wanted = {job.job_id for job in jobs}
    second = world.new_queue()
    served: list[int] = []

    async def second_works() -> bool:
        for job in await second.claim(tuple(Lane), 16):
            await second.advance([(job, -1, 1)], 1)
            served.append(job.job_id)
        return bool(served)

    await until(second_works)
    # the first has lost all it held, and gets part of it anew; what it says of the rest counts
    # for nothing
    lost = [job for job in held if not first._claims.holds(job)]
    assert lost
    await first.advance([(job, 10, 1) for job in lost], 1)
    assert first.stats.continued == 0
    wanted -= set(served)
    await asyncio.gather(
        world.finish_all(first, wanted, 30.0), world.finish_all(second, wanted, 30.0)
    )
    assert not wanted
    more = [world.post() for _ in range(50)]
    await world.put(more)
    await second.claim(tuple(Lane), 16)
    await second.close()
    wanted = {job.job_id for job in more}
    await world.finish_all(first, wanted, 30.0)
    assert not wanted


async def test_workers_that_are_killed_lose_nothing(
    world: World, request: pytest.FixtureRequest
) -> None:
    at = addresses(request)
    await world.session.define(TABLE)
    jobs = [world.post(lane=random.choice(list(Lane))) for _ in range(JOBS)]
    worker: asyncio.subprocess.Process | None = None
    for number in range(KILLS):
        share = len(jobs) // KILLS
        await world.put(jobs[number * share : (number + 1) * share])
        worker = await _start(at, world, number + 1)
        # after some commits, in the middle of deliveries
        await asyncio.sleep(random.uniform(0.15, 0.6))
        worker.kill()
        await worker.wait()
    await world.put(jobs[KILLS * share :])
    worker = await _start(at, world, KILLS + 1)
    try:
        await until(lambda: _all_done(world, len(jobs)), within_s=90.0, every_s=0.5)
    finally:
        worker.kill()
        await worker.wait()
    rows = await world.session.read(Statement("SELECT job_id, after FROM delivered"))
    assert {tuple(row) for row in rows} == {
        (job.job_id, after) for job in jobs for after in range(CHUNKS)
    }
    assert await world.rows() == []


async def _start(at: Addresses, world: World, node: int) -> asyncio.subprocess.Process:
    keyspace = f"kafka_{world.options.prefix.removeprefix('kafka-').rstrip('.')}"
    words = ("-m", "tests.support.kafkaworker", at.kafka, at.cassandra, keyspace)
    made = await asyncio.create_subprocess_exec(
        sys.executable,
        *words,
        world.options.prefix,
        str(node),
        stdout=asyncio.subprocess.PIPE,
    )
    assert made.stdout is not None
    line = await asyncio.wait_for(made.stdout.readline(), 60.0)
    assert line == b"up\n"
    return made


async def _all_done(world: World, count: int) -> bool:
    rows = await world.session.read(Statement("SELECT reach FROM post_fanout"))
    assert all(row[0] == CHUNKS for row in rows)
    return len(rows) == count
