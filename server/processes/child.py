"""What every child process of the supervisor does the same way: settings in, ready out, and its
end.

stdin is the pipe from the supervisor: its first line is the settings as one JSON document, and end
of file means that the supervisor is gone, however it ended; the process then exits at once. The
status pipe (a file descriptor given on the command line) takes one JSON line: `{"ready": PORT}` or
`{"error": TEXT}`. SIGTERM asks for a drain.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import uvloop

from feedcore.config import Settings
from feedcore.errors import FeedcoreError
from feedcore.observe import logs, metrics
from feedcore.resilience.tasks import FATAL
from feedcore_server.processes.open_files import raise_limit

_STDIN = 0  # used as a descriptor: a daemon thread must not hold a lock of sys.stdin at exit
EXIT_CANNOT_START = 78  # EX_CONFIG of sysexits.h: starting again will not help
EXIT_ORPHANED = 79  # the supervisor is gone
EXIT_FAULT = 70  # EX_SOFTWARE: something behind the calls has failed


@dataclass(frozen=True)
class Child:
    """What a child process was told: its number, the node of its ids, the port to listen on (or
    the channel that brings its connections, -1 for none), and where to answer."""

    settings: Settings
    role: str
    index: int
    node: int
    port: int
    channel_fd: int
    status_fd: int
    listen_fd: int = -1  # of the exporter: where it serves
    metrics_dir: str = ""  # of the exporter: the files that it merges
    restarted: bool = False  # it takes the place of one that has died

    def waiting(self, what: str) -> None:
        """Tells the supervisor what this process waits for."""
        self._report({"waiting": what})

    def ready(self, port: int) -> None:
        """Tells the supervisor that this process serves. Nothing can be told after it."""
        self._report({"ready": port})
        os.close(self.status_fd)

    def failed(self, error: BaseException) -> None:
        """Tells the supervisor why this process cannot start. Nothing can be told after it."""
        self._report({"error": str(error) or type(error).__name__})
        os.close(self.status_fd)

    def _report(self, document: dict[str, object]) -> None:
        os.write(self.status_fd, json.dumps(document).encode() + b"\n")


Run = Callable[[Child, asyncio.Event], Awaitable[None]]


def run_child(role: str, run: Run) -> int:
    """Runs `run(child, stop)` until it returns; the exit code. `stop` is set by SIGTERM."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches the whole group; the supervisor decides
    child = _read(role)
    raise_limit()
    config = child.settings.logging
    logs.configure(config.level, config.format, role=role, worker=child.index, pid=os.getpid())
    threading.Thread(target=_exit_with_supervisor, name="supervisor-pipe", daemon=True).start()
    metrics.PROCESSES.labels(role).set(1)
    metrics.STARTED.labels(role).set_to_current_time()
    if child.restarted:
        metrics.RESTARTS.labels(role).inc()
    return uvloop.run(_main(child, run))


async def _main(child: Child, run: Run) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    faults = _Faults(stop)
    loop.set_exception_handler(faults)
    try:
        await run(child, stop)
    except (FeedcoreError, OSError) as error:
        logs.get("process").error("cannot serve", exc_info=error)
        try:
            child.failed(error)
        except OSError:  # it was ready before, and the pipe is closed: the exit code says enough
            return 1
        return EXIT_CANNOT_START
    return EXIT_FAULT if faults.fatal else 0


class _Faults:
    """The loop's exception handler: what is fatal ends the process as SIGTERM does."""

    def __init__(self, stop: asyncio.Event) -> None:
        self._stop = stop
        self.fatal = False

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        loop.default_exception_handler(context)
        if context.get(FATAL):
            self.fatal = True
            self._stop.set()


def _read(role: str) -> Child:
    parser = argparse.ArgumentParser(
        description=f"A {role} process; started by the supervisor only."
    )
    parser.add_argument("--index", type=int, default=0)
    parser.add_argument("--node", type=int, default=0)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--channel-fd", type=int, default=-1)
    parser.add_argument("--status-fd", type=int, required=True)
    parser.add_argument("--listen-fd", type=int, default=-1)
    parser.add_argument("--metrics-dir", default="")
    parser.add_argument("--restarted", action="store_true")
    options = parser.parse_args()
    with open(_STDIN, "rb", buffering=0, closefd=False) as stdin:
        line = stdin.readline()
    if not line:
        raise SystemExit(EXIT_ORPHANED)
    settings = Settings.model_validate_json(line)
    return Child(
        settings,
        role,
        options.index,
        options.node,
        options.port,
        options.channel_fd,
        options.status_fd,
        options.listen_fd,
        options.metrics_dir,
        options.restarted,
    )


def _exit_with_supervisor() -> None:
    """Blocks until the supervisor's end of stdin is closed, then ends the process without any
    clean-up.

    Clean-up could hang, and the store survives a kill at any instruction.
    """
    while os.read(_STDIN, 1):
        continue
    os._exit(EXIT_ORPHANED)
