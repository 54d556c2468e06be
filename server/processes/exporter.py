"""The process that serves metrics, started by the supervisor if an address is set:
`python -m feedcore_server.processes.exporter`.

It merges the files of all processes at each scrape. A process of its own: what scrapers do, slow or
many, takes nothing from the process that accepts calls, nor from those that answer them. The
supervisor listens and hands the socket over, so that the address stays ours while this process is
started again. It has no metrics of its own: without the library's directory in its environment the
values that this module's imports make stay in its memory.
"""

from __future__ import annotations

import asyncio
import socket
import sys

from prometheus_client import CollectorRegistry

from feedcore.observe import logs, metrics
from feedcore_server.metrics_http import MetricsServer
from feedcore_server.processes.child import Child, run_child


async def export(child: Child, stop: asyncio.Event) -> None:
    """Serves until `stop`."""
    registry = CollectorRegistry()
    metrics.add_shared(registry, child.metrics_dir)
    server = MetricsServer(registry)
    await server.start(socket.socket(fileno=child.listen_fd))
    child.ready(0)
    logs.get("exporter").info("serving metrics")
    await stop.wait()
    await server.stop()


if __name__ == "__main__":
    sys.exit(run_child("metrics", export))
