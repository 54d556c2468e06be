"""The fan-out process, started by the supervisor, one a data directory:
`python -m feedcore_server.processes.fanout`.

Runs feedcore.workers over the store's writing role and exports what they did as metrics.
"""

from __future__ import annotations

import asyncio
import sys

from feedcore.clock import SystemClock
from feedcore.compose import Engine, Role, compose
from feedcore.limits import LIST_PAGE_MAX
from feedcore.observe import logs, metrics
from feedcore_server.limits import METRICS_REFRESH_S
from feedcore_server.processes.child import Child, run_child
from feedcore_server.processes.open_files import OpenFiles


async def work(child: Child, stop: asyncio.Event) -> None:
    """Works until `stop`. Raises StoreError if the store cannot be opened for writing."""
    opening = compose(
        child.settings, Role.FANOUT, SystemClock(), node=child.node, waiting=child.waiting
    )
    async with opening as engine:
        child.ready(0)
        logs.get("fanout").info("working")
        async with asyncio.TaskGroup() as group:
            group.create_task(_export(engine, stop), name="metrics")
            group.create_task(engine.background.run(stop), name="fan-out process")
        logs.get("fanout").info("stopped")


async def _export(engine: Engine, stop: asyncio.Event) -> None:
    """Writes gauges about once a second, and once more at the end."""
    stats, merger = engine.fanout.stats, engine.store.merger
    deliveries = failures = 0
    files = OpenFiles("fanout")
    while True:
        stopping = stop.is_set()
        metrics.FANOUT_DELIVERIES.inc(stats.deliveries - deliveries)
        metrics.FANOUT_FAILURES.inc(stats.failures - failures)
        deliveries, failures = stats.deliveries, stats.failures
        try:
            await _read_gauges(engine)
            metrics.MERGE_FAILING.set(bool(merger and merger.last_error))
        except Exception:  # a store that does not answer must not end the fan-out with its metrics
            logs.get("fanout").warning("gauges not read", exc_info=True)
        files.look(0)
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
    metrics.FANOUT_EXPORTED.set_to_current_time()


if __name__ == "__main__":
    sys.exit(run_child("fanout", work))
