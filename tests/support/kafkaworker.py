"""A fan-out process under test, which gets killed: `python -m tests.support.kafkaworker KAFKA
CASSANDRA KEYSPACE PREFIX NODE`.

Each job takes three chunks; a chunk that is delivered is a row of `delivered`, durable before the
queue hears of it. Says `up` when it has claimed something.
"""

from __future__ import annotations

import asyncio
import random
import sys

from feedcore.adapters.cql.driver.connect import open_session
from feedcore.adapters.cql.driver.options import CqlSettings
from feedcore.adapters.cql.driver.session import Statement, Write
from feedcore.adapters.kafka.options import KafkaOptions
from feedcore.ports import Lane
from tests.support.kafkaworld import PARTITIONS, World

CHUNKS = 3
TABLE = "CREATE TABLE delivered (job_id bigint, after bigint, PRIMARY KEY (job_id, after))"
DELIVERED = Statement("INSERT INTO delivered (job_id, after) VALUES (?, ?)")


async def main(kafka: str, cassandra: str, keyspace: str, prefix: str, node: int) -> None:
    """Works until it is killed."""
    session = await open_session(CqlSettings((cassandra,), keyspace=keyspace))
    world = World(session, KafkaOptions((kafka,), prefix=prefix, partitions=PARTITIONS), node)
    await world.start()
    said = False
    while True:
        jobs = await world.queue.claim(tuple(Lane), 16)
        if jobs and not said:
            print("up", flush=True)
            said = True
        await asyncio.sleep(random.uniform(0, 0.04))  # most kills come between claim and delivery
        await session.write_many([Write(DELIVERED, (job.job_id, job.after)) for job in jobs])
        steps = [(job, job.after + 1 if job.after + 1 < CHUNKS else -1, 1) for job in jobs]
        await world.queue.advance(steps, world.clock.now_ms())


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:5], int(sys.argv[5])))
