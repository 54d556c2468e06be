"""migrate_data: begin, copy, compare."""

from __future__ import annotations

import contextlib

from feedcore.adapters.contracts.job_ids import JobIds
from feedcore.adapters.cql.driver.session import Session
from feedcore.adapters.cql.schema.migrate import check
from feedcore.adapters.embedded.database import connect
from feedcore.adapters.embedded.store import EmbeddedStore
from feedcore.clock import Clock
from feedcore.migrating.begin import begin, finish
from feedcore.migrating.compare import Comparison, compare_feeds, count_tables
from feedcore.migrating.copy import Copy, Echo
from feedcore.migrating.patient import PatientSession

SAMPLE_SEED = 1  # of the users that are compared: the same ones each time


async def migrate_data(
    store: EmbeddedStore,
    session: Session,
    clock: Clock,
    job_ids: JobIds,
    *,
    keep_secret: bool,
    sample: int,
    echo: Echo,
) -> Comparison:
    """Carries everything over; again is the same. `store` is open for this process alone.

    `job_ids`: of a node number that no other process uses. Raises StoreError for a cluster that is
    no copy of this store and not empty.
    """
    hasty, session = session, PatientSession(session)
    await check(session)
    identity = (store.store_id, store.secret)
    origin = await begin(session, *identity, clock.now_ms(), keep_secret=keep_secret)
    if origin.own_secret:
        echo("the cluster keeps its own cursor secret: cursors of the old server end")
    with contextlib.closing(connect(store.data_dir / "store.db", read_only=True)) as conn:
        copy = Copy(store, conn, session, origin.begun_ms, clock, echo)
        await copy.run(None if origin.done else job_ids)
        await finish(session, origin)
        echo("comparing")
        result = Comparison(await count_tables(hasty, copy.tally, clock))
        users = await store.graph.sample_users(sample, SAMPLE_SEED)
        await compare_feeds(store, session, users, clock, job_ids, result)
    return result
