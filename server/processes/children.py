"""One child process of the supervisor: how it is started, told its settings, heard, and signalled.

Children are started with exec, never by fork alone. Each holds a pipe from here as its stdin, so
that it ends when this process does, even by SIGKILL; its settings are the first line of that pipe.
The answer comes on a pipe of its own (feedcore_server.processes.child has the other side).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from feedcore.config import REVEAL, Settings
from feedcore.observe import metrics
from feedcore_server import limits
from feedcore_server.processes.acceptor import Channel

API, FANOUT, METRICS = "api", "fanout", "metrics"
MODULES = {
    API: "feedcore_server.processes.worker",
    FANOUT: "feedcore_server.processes.fanout",
    METRICS: "feedcore_server.processes.exporter",
}


@dataclass(frozen=True)
class Spec:
    """Which child."""

    role: str
    index: int


@dataclass(frozen=True)
class Start:
    """What a child is given: the node of its ids, where it listens (a port that is shared, a
    channel that brings connections, or a socket that listens), the directory of metrics."""

    node: int
    port: int
    channel: Channel | None
    listener: socket.socket | None
    metrics_dir: str
    restarted: bool


class Child:
    """A process that was started. `error` says why it cannot serve, "" if it does or is still
    starting."""

    def __init__(
        self,
        spec: Spec,
        node: int,
        process: asyncio.subprocess.Process,
        channel: Channel | None,
        status_fd: int,
    ) -> None:
        self.spec = spec
        self.node = node
        self.process = process
        self.channel = channel
        self.error = ""
        self._status_fd = status_fd

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.spec.role} process {self.spec.index} (pid {self.process.pid})"

    def signal(self, number: signal.Signals) -> None:
        """Signals the process unless it has ended already."""
        if self.process.returncode is None:
            try:
                self.process.send_signal(number)
            except ProcessLookupError:
                return

    async def until_ready(self, waits_for: Callable[[str, str], None]) -> None:
        """Waits until it serves, or sets `error`. Once. A child that says what it waits for has
        all the time that takes; `waits_for(name, what)` is told each time."""
        name = f"{self.spec.role} process {self.spec.index}"
        try:
            async with _lines(self._status_fd) as reader:
                while True:
                    line = await asyncio.wait_for(reader.readline(), limits.START_TIMEOUT_S)
                    answer = json.loads(line) if line else {}
                    if "waiting" not in answer:
                        break
                    waits_for(name, str(answer["waiting"]))
        except TimeoutError:
            self.signal(signal.SIGKILL)
            self.error = f"{name}: no answer in {limits.START_TIMEOUT_S:g} s"
            return
        finally:
            os.close(self._status_fd)
        if "ready" not in answer:
            self.error = str(answer.get("error") or f"{name} ended; its log says why")

    async def end_within(self, patience_s: float) -> None:
        """SIGTERM, and SIGKILL if it has not ended by then."""
        self.signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self.process.wait(), patience_s)
        except TimeoutError:
            self.signal(signal.SIGKILL)
            await self.process.wait()


async def start_child(spec: Spec, settings: Settings, start: Start) -> Child:
    """Starts a child; `until_ready` says whether it serves. Raises OSError if there can be no
    process."""
    read_fd, write_fd = os.pipe()
    arguments = ["-m", MODULES[spec.role], "--index", str(spec.index), "--node", str(start.node)]
    arguments += ["--port", str(start.port), "--status-fd", str(write_fd)]
    pass_fds = [write_fd]
    environment = {**os.environ, metrics.MULTIPROCESS_DIR_VARIABLE: start.metrics_dir}
    if start.channel is not None:
        arguments += ["--channel-fd", str(start.channel.theirs.fileno())]
        pass_fds.append(start.channel.theirs.fileno())
    if spec.role == METRICS and start.listener is not None:
        arguments += ["--listen-fd", str(start.listener.fileno())]
        arguments += ["--metrics-dir", start.metrics_dir]
        pass_fds.append(start.listener.fileno())
        del environment[metrics.MULTIPROCESS_DIR_VARIABLE]  # it merges, and writes none itself
    if start.restarted:
        arguments.append("--restarted")
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            pass_fds=tuple(pass_fds),
            env=environment,
        )
    except OSError:
        os.close(read_fd)
        raise
    finally:
        os.close(write_fd)
    assert process.stdin is not None
    process.stdin.write(settings.model_dump_json(context=REVEAL).encode() + b"\n")
    return Child(spec, start.node, process, start.channel, read_fd)


@contextlib.asynccontextmanager
async def _lines(fd: int) -> AsyncIterator[asyncio.StreamReader]:
    """Reads a pipe line by line; empty once the other side has closed it."""
    reader = asyncio.StreamReader()
    with os.fdopen(os.dup(fd), "rb", buffering=0) as pipe:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), pipe
        )
        try:
            yield reader
        finally:
            transport.close()
