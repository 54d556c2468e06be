"""One API worker, started by the supervisor: `python -m feedcore_server.processes.worker`."""

from __future__ import annotations

import asyncio
import gc
import sys

from feedcore.clock import SystemClock
from feedcore.compose import Role, compose
from feedcore.config import split_address
from feedcore.observe import logs
from feedcore.resilience import tasks
from feedcore_server.processes.child import Child, run_child
from feedcore_server.processes.open_files import OpenFiles
from feedcore_server.processes.readiness import Readiness
from feedcore_server.processes.serving import serving_of
from feedcore_server.wiring import wire

# The writer's thread asks for the interpreter after each statement. A busy loop gives it up when
# asked for so long: at the default of 5 ms a transaction of twenty statements took 40 ms.
SWITCH_INTERVAL_S = 0.0005


async def serve(child: Child, stop: asyncio.Event) -> None:
    """Serves until `stop`, then drains. Raises StoreError and OSError if it cannot start."""
    clock = SystemClock()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    settings = child.settings
    opening = compose(settings, Role.API, clock, node=child.node, waiting=child.waiting)
    async with opening as engine:
        api = wire(engine, settings.server, clock)
        if engine.resident is not None:
            engine.resident.start()
        files = OpenFiles(child.role)
        serving = serving_of(child, api.dispatcher, clock, files)
        readiness = Readiness(
            api.health, engine.store.fault, files, serving.open_connections, serving.is_full
        )
        host, _ = split_address(settings.server.listen)
        port = await serving.start(host, child.port)
        # What start-up has made stays: looking at it in a full collection stops calls for 100 ms.
        gc.collect()
        gc.freeze()
        api.health.set_serving(True)
        watch = tasks.start(readiness.run(), "readiness")
        child.ready(port)
        log = logs.get("worker")
        log.info("serving", port=port, transport=settings.server.transport, node=child.node)
        await stop.wait()
        watch.cancel()
        await asyncio.wait([watch])
        await api.drain(serving, settings.server.drain_grace_s)
        log.info("drained")


if __name__ == "__main__":
    sys.exit(run_child("api", serve))
