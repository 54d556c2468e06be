"""The fan-out process, started by the supervisor, one a data directory:
`python -m feedcore_server.processes.fanout`.

Runs feedcore.workers over the store's writing role and exports what they did as metrics.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

from feedcore.clock import Clock, SystemClock
from feedcore.limits import LIST_PAGE_MAX
from feedcore.observe import logs, metrics
from feedcore.profiles import open_store
from feedcore.services.engine import Engine, build_engine
from feedcore.workers.fanout import FanoutStats, FanoutWorker
from feedcore.workers.runner import FanoutProcess
from feedcore_server.limits import METRICS_REFRESH_S
from feedcore_server.processes.child import Child, run_child
from feedcore_server.wiring import hot_start

if TYPE_CHECKING:
    from feedcore.profiles import AnyStore


async def work(child: Child, stop: asyncio.Event) -> None:
    """Works until `stop`. Raises StoreError if the store cannot be opened for writing."""
    clock: Clock = SystemClock()
    store = await open_store(
        child.settings, clock, node=child.node, fanout=True, waiting=child.waiting
    )
    try:
        engine = build_engine(
            store, hot_start(child.settings.fanout), clock, region=child.settings.ids.region
        )
        fanout = FanoutWorker(
            store.queue, store.feeds, store.graph, store.posts, store.validation, engine.hot, clock
        )
        process = FanoutProcess(fanout, store.signals, engine.policy, store.upkeep, clock)
        child.ready(0)
        logs.get("fanout").info("working")
        async with asyncio.TaskGroup() as group:
            group.create_task(_export(store, engine, fanout.stats, stop), name="metrics")
            group.create_task(process.run(stop), name="fan-out process")
        logs.get("fanout").info("stopped")
    finally:
        await store.close()


async def _export(store: AnyStore, engine: Engine, stats: FanoutStats, stop: asyncio.Event) -> None:
    """Writes gauges about once a second, and once more at the end."""
    deliveries = failures = 0
    while True:
        stopping = stop.is_set()
        metrics.FANOUT_DELIVERIES.inc(stats.deliveries - deliveries)
        metrics.FANOUT_FAILURES.inc(stats.failures - failures)
        deliveries, failures = stats.deliveries, stats.failures
        try:
            await _read_gauges(engine)
            metrics.MERGE_FAILING.set(bool(store.merger and store.merger.last_error))
        except Exception:  # a store that does not answer must not end the fan-out with its metrics
            logs.get("fanout").warning("gauges not read", exc_info=True)
        if stopping:
            return
        try:
            await asyncio.wait_for(stop.wait(), METRICS_REFRESH_S)
        except TimeoutError:
            continue


async def _read_gauges(engine: Engine) -> None:
    for lane, (lag, _) in (await engine.admin.lanes()).items():
        metrics.FANOUT_JOBS.labels(lane.name.lower()).set(lag.jobs)
        metrics.FANOUT_LAG.labels(lane.name.lower()).set(lag.oldest_ms / 1_000)
    metrics.DEAD_LETTERS.set(len(await engine.admin.dead_letters(LIST_PAGE_MAX)))
    metrics.MERGE_BACKLOG.set(engine.admin.backlog())


if __name__ == "__main__":
    sys.exit(run_child("fanout", work))
