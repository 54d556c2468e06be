"""One API worker process: `python -m feedcore_server.worker`, started by the supervisor."""

from __future__ import annotations

import asyncio
import sys

from feedcore.clock import SystemClock
from feedcore.config import split_address
from feedcore.observe import logs
from feedcore_server.process import Child, run_child
from feedcore_server.transports.grpcio import GrpcioTransport
from feedcore_server.wiring import open_worker


async def serve(child: Child, stop: asyncio.Event) -> None:
    """Serves until `stop`, then drains. Raises StoreError and OSError if it cannot start."""
    clock = SystemClock()
    api = await open_worker(child.settings, child.index, clock)
    try:
        transport = GrpcioTransport(api.dispatcher, clock)
        host, _ = split_address(child.settings.server.listen)
        port = await transport.start(host, child.port)
        api.health.set_serving(True)
        child.ready(port)
        logs.get("worker").info("serving", port=port)
        await stop.wait()
        await api.drain(transport, child.settings.server.drain_grace_s)
        logs.get("worker").info("drained")
    finally:
        await api.close()


if __name__ == "__main__":
    sys.exit(run_child("api", serve))
