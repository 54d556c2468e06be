"""How evenly connections are spread over workers: handed over by the supervisor's acceptor, beside
listeners that share a port by SO_REUSEPORT.

    python -m benchmarks.transport.spread [--rounds 50] [--small]

Worker processes with the native transport on an empty table; this process is the supervisor for
them and the client of both. A round opens the connections at once and looks which process has each,
as the kernel knows it. Then half of them are closed, all those of some workers first, as when the
clients of one worker leave; as many new ones are opened, and it looks again. --small takes a few
rounds of one row and checks the acceptor's result.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import signal
import socket
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import click
import psutil
import uvloop

from benchmarks.micro.report import print_table
from benchmarks.transport.serve import dispatcher
from feedcore.clock import SystemClock
from feedcore.config import Settings
from feedcore_server.processes.acceptor import Acceptor, Channel
from feedcore_server.processes.child import Child
from feedcore_server.processes.open_files import OpenFiles
from feedcore_server.processes.serving import HandedOver
from feedcore_server.transports.native import NativeTransport

HOST = "127.0.0.1"
WORKERS, CONNECTIONS = (2, 4), (4, 8, 16, 64)
ROUNDS, ROUNDS_SMALL = 50, 3
WAIT_MAX_S = 20.0  # for what takes milliseconds on a machine with nothing else to do
POLL_S = 0.005
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closed by RST, so that no port stays in TIME_WAIT
HAND_OVER, REUSE_PORT = "handed over", "SO_REUSEPORT"


class Way(Protocol):
    """How connections reach workers."""

    port: int
    pids: list[int]

    def settled(self, count: int) -> bool:
        """Whether the acceptor knows all that has happened."""


@dataclass
class Found:
    """What the rounds of one row showed: max - min of connections over workers."""

    fresh: list[int] = field(default_factory=list)
    left_out: int = 0  # rounds in which a worker got none
    closed: list[int] = field(default_factory=list)
    refilled: list[int] = field(default_factory=list)


class Row(NamedTuple):
    """One line of the table."""

    way: str
    workers: int
    connections: int
    found: Found


# --- workers -------------------------------------------------------------------------------------
async def serve(port: int, channel_fd: int) -> None:
    """A worker: tells its port on stdout, serves until SIGTERM."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    clock, table = SystemClock(), dispatcher("fast")
    serving: HandedOver | NativeTransport
    if channel_fd >= 0:
        child = Child(Settings(), "api", 0, 0, port, channel_fd, -1)
        serving = HandedOver(child, table, clock, OpenFiles("api"))
    else:
        serving = NativeTransport(table, clock)
    port = await serving.start(HOST, port)
    print(port, flush=True)
    await ended.wait()
    await serving.stop(0)


def started(port: int, channel_fd: int = -1) -> subprocess.Popen[str]:
    """A worker process, not yet ready."""
    command = [sys.executable, "-m", "benchmarks.transport.spread", "--worker"]
    command += ["--port", str(port), "--channel-fd", str(channel_fd)]
    fds = (channel_fd,) if channel_fd >= 0 else ()
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, pass_fds=fds)


def ready(process: subprocess.Popen[str]) -> int:
    """Its port, once it serves."""
    assert process.stdout is not None
    return int(process.stdout.readline())


class HandedOverWay:
    """The acceptor in this process, a channel to each worker."""

    def __init__(self, workers: int) -> None:
        self._acceptor = Acceptor(asyncio.get_running_loop())
        address = socket.getaddrinfo(HOST, 0, type=socket.SOCK_STREAM)[0]
        self.port = self._acceptor.listen_tcp(address)
        channels = [Channel() for _ in range(workers)]
        self._processes = [started(self.port, one.theirs.fileno()) for one in channels]
        for process, channel in zip(self._processes, channels, strict=True):
            ready(process)
            channel.theirs.close()
            self._acceptor.add(channel)
        self.pids = [process.pid for process in self._processes]

    def settled(self, count: int) -> bool:
        """Workers have reported."""
        return sum(self._acceptor.loads()) == count

    def close(self) -> None:
        self._acceptor.close()
        _end(self._processes)


class ReusePortWay:
    """Each worker listens."""

    def __init__(self, workers: int) -> None:
        self._processes = [started(0)]
        self.port = ready(self._processes[0])
        self._processes += [started(self.port) for _ in range(workers - 1)]
        for process in self._processes[1:]:
            ready(process)
        self.pids = [process.pid for process in self._processes]

    def settled(self, _count: int) -> bool:
        """The kernel knows nothing of loads."""
        return True

    def close(self) -> None:
        _end(self._processes)


def _end(processes: list[subprocess.Popen[str]]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        process.wait()


# --- rounds --------------------------------------------------------------------------------------
def owners(way: Way) -> dict[int, int]:
    """Port of the client's side -> number of the worker that has the connection."""
    found = {}
    for number, pid in enumerate(way.pids):
        for one in psutil.Process(pid).net_connections("tcp"):
            if one.status == psutil.CONN_ESTABLISHED and one.laddr.port == way.port:
                found[one.raddr.port] = number
    return found


async def spread(way: Way, clients: dict[int, socket.socket]) -> list[int]:
    """Connections of each worker, once each client's connection has one. Nothing else is open."""
    deadline_s = time.monotonic() + WAIT_MAX_S
    while (owned := owners(way)).keys() != clients.keys() or not way.settled(len(clients)):
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"{len(clients)} connections, {len(owned)} of them with workers")
        await asyncio.sleep(POLL_S)
    counts = [0] * len(way.pids)
    for number in owned.values():
        counts[number] += 1
    return counts


async def connect(way: Way, count: int, clients: dict[int, socket.socket]) -> None:
    """Opens so many at once."""
    loop = asyncio.get_running_loop()
    fresh = [socket.socket() for _ in range(count)]
    async with asyncio.TaskGroup() as group:
        for one in fresh:
            one.setblocking(False)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            group.create_task(loop.sock_connect(one, (HOST, way.port)))
    clients.update((one.getsockname()[1], one) for one in fresh)


async def one_round(way: Way, count: int, found: Found) -> None:
    """Fresh connections; half of them leave; as many come."""
    clients: dict[int, socket.socket] = {}
    try:
        await connect(way, count, clients)
        counts = await spread(way, clients)
        found.fresh.append(max(counts) - min(counts))
        found.left_out += min(counts) == 0
        owned = owners(way)
        for port in sorted(owned, key=owned.__getitem__)[: count // 2]:
            clients.pop(port).close()
        counts = await spread(way, clients)
        found.closed.append(max(counts) - min(counts))
        await connect(way, count // 2, clients)
        counts = await spread(way, clients)
        found.refilled.append(max(counts) - min(counts))
    finally:
        for one in clients.values():
            one.close()
        await spread(way, {})


@contextlib.asynccontextmanager
async def opened(way: str, workers: int) -> AsyncIterator[Way]:
    """The workers of a way; ended afterwards."""
    made = HandedOverWay(workers) if way == HAND_OVER else ReusePortWay(workers)
    try:
        yield made
    finally:
        made.close()


async def measure(rounds: int, workers: tuple[int, ...], counts: tuple[int, ...]) -> list[Row]:
    """All rows."""
    rows = []
    for number in workers:
        for name in (HAND_OVER, REUSE_PORT):
            async with opened(name, number) as way:
                for count in counts:
                    found = Found()
                    for _ in range(rounds):
                        await one_round(way, count, found)
                    rows.append(Row(name, number, count, found))
    return sorted(rows, key=lambda row: (row.workers, row.connections))


def left_out_by_chance(workers: int, connections: int) -> float:
    """Probability that some worker gets none when each connection draws one at random."""
    return sum(
        (-1) ** (empty + 1) * math.comb(workers, empty) * (1 - empty / workers) ** connections
        for empty in range(1, workers)
    )


def report(rows: list[Row], rounds: int) -> None:
    """The table."""
    head = ["workers", "connections", "how", "max - min, mean", "most", "a worker has none"]
    head += ["by chance", "after half have left", "after as many have come"]
    lines = []
    for way, workers, connections, found in rows:
        chance = left_out_by_chance(workers, connections) if way == REUSE_PORT else 0.0
        lines.append(
            [
                str(workers),
                str(connections),
                way,
                f"{statistics.mean(found.fresh):.1f}",
                str(max(found.fresh)),
                f"{found.left_out / rounds:.0%}",
                f"{chance:.0%}" if way == REUSE_PORT else "",
                f"{statistics.mean(found.closed):.1f}",
                f"{statistics.mean(found.refilled):.1f} (most {max(found.refilled)})",
            ]
        )
    print_table(f"Spread of connections over workers, {rounds} rounds", head, lines)


def check(rows: list[Row]) -> None:
    """What the acceptor promises."""
    for row in rows:
        if row.way == HAND_OVER:
            worst = max(row.found.fresh + row.found.refilled)
            if worst > 1:
                raise AssertionError(f"{row.workers} workers, {row.connections}: max - min {worst}")


@click.command(help=__doc__.splitlines()[0])
@click.option("--rounds", type=click.IntRange(1), default=ROUNDS, show_default=True)
@click.option("--small", is_flag=True, help="One row, few rounds.")
@click.option("--worker", is_flag=True, hidden=True)
@click.option("--port", type=int, default=0, hidden=True)
@click.option("--channel-fd", type=int, default=-1, hidden=True)
def main(rounds: int, small: bool, worker: bool, port: int, channel_fd: int) -> None:
    """Command line."""
    if worker:
        uvloop.run(serve(port, channel_fd))
        return
    if small:
        rounds = ROUNDS_SMALL
    workers, counts = ((2,), (16,)) if small else (WORKERS, CONNECTIONS)
    rows = asyncio.run(measure(rounds, workers, counts))
    check(rows)
    report(rows, rounds)


if __name__ == "__main__":
    main()
