"""Redis from one process: gets that a batcher makes one question a turn, over two connections; and
page loads that another node has answered before.

    python -m benchmarks.micro.bench_redis [--small]

A redis-server of its own, values of 2.5 KB, 64 callers. Two connections behind the same batcher:
that of redis-py with hiredis, and the least that could do, an asyncio.Protocol over the same
hiredis reader. "CPU" is this process's alone: what the rate would be if nobody else used the core.
A page load is two keys of its user and the node log, with 200 followees to look at. Medians of
rounds.
--small measures nothing: it checks that both connections and the pages give what was put in.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

import hiredis
import uvloop
from redis.asyncio.connection import Connection

from benchmarks.micro.report import print_table
from feedcore import native
from feedcore.adapters.cluster.cache_validation import ClusterCacheValidation
from feedcore.adapters.cluster.page_cache import ClusterPageCache
from feedcore.adapters.cluster.replica import ReplicaState
from feedcore.adapters.cluster.replication import NodeReplica
from feedcore.adapters.contracts.replica import Document
from feedcore.adapters.redis.batcher import Batcher
from feedcore.adapters.redis.failure_detector import FailureDetector
from feedcore.adapters.redis.keys import Keys
from feedcore.adapters.redis.nodes import Nodes
from feedcore.clock import SystemClock
from feedcore.codecs.epochs import EPOCHS_BYTES
from feedcore.ports.page_cache import SharedPage
from feedcore.ports.settings import AuthorMode

VALUE_BYTES, KEYS, CALLERS = 2_560, 2_000, 64
FOLLOWEES = 200
ROUNDS, ROUND_S = 5, 1.5  # odd, so that the median is a measurement
DEADLINE_S = 5.0  # a busy machine is measured, too
GETS_GOAL, LOADS_GOAL = 53_000, 15_000
SHAPE = b"20f"


class LeastConnection(asyncio.Protocol):
    """What the batcher needs of a connection, and nothing else."""

    def __init__(self, host: str, port: int) -> None:
        self._address = host, port
        self._reader = hiredis.Reader()
        self._replies: deque[Any] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._transport: Any = None

    async def connect(self) -> None:
        """To the server."""
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_connection(lambda: self, *self._address)

    async def disconnect(self, nowait: bool = False) -> None:
        """At once."""
        if self._transport is not None:
            self._transport.abort()

    @staticmethod
    def pack_commands(commands: list[tuple[Any, ...]]) -> list[bytes]:
        """As redis-py's."""
        return [hiredis.pack_command(command) for command in commands]

    async def send_command(self, *command: Any) -> None:
        """One."""
        await self.send_packed_command(self.pack_commands([command]))

    async def send_packed_command(self, parts: list[bytes], check_health: bool = False) -> None:
        """One write."""
        self._transport.writelines(parts)

    async def read_response(self, disable_decoding: bool = True) -> Any:
        """The next reply."""
        while not self._replies:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self._replies.popleft()

    def data_received(self, data: bytes) -> None:
        """Of asyncio.Protocol."""
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            self._replies.append(reply)
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """Of asyncio.Protocol."""
        self._replies.append(hiredis.ReplyError("connection lost"))
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class LeastNodes(Nodes):
    """The same addresses, the other connection."""

    def connection(self, node: str) -> Connection:
        host, _, port = node.rpartition(":")
        return LeastConnection(host, int(port))


class NoRecord:
    """Nothing is deleted, set or pulled."""

    async def tombstones_since(self, since_ms: int, now_ms: int) -> list[int]:
        return []

    async def author_modes(self) -> list[AuthorMode]:
        return []

    async def documents(self) -> dict[str, list[Document]]:
        return {}

    async def trending(self) -> bytes:
        return b""

    async def engagement_since(self, since_ms: int, now_ms: int) -> bytes:
        return b""


class Rate(NamedTuple):
    """Of one round."""

    per_s: float
    cpu_us: float
    p99_ms: float


async def drive(call: Callable[[int], Coroutine[Any, Any, None]], seconds: float) -> Rate:
    """CALLERS of `call(number)`, one after the other each."""
    took: list[float] = []
    end = time.perf_counter() + seconds

    async def caller(number: int) -> None:
        while (began := time.perf_counter()) < end:
            await call(number)
            number += CALLERS
            took.append(time.perf_counter() - began)

    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*[caller(number) for number in range(CALLERS)])
    cpu, passed = time.process_time() - cpu, time.perf_counter() - began
    p99 = sorted(took)[int(len(took) * 0.99)]
    return Rate(len(took) / passed, cpu / len(took) * 1e6, p99 * 1e3)


def _batcher(nodes: Nodes) -> Batcher:
    clock = SystemClock()
    return Batcher(nodes, FailureDetector(clock.monotonic), clock.monotonic, deadline_s=DEADLINE_S)


async def gets(nodes: Nodes, seconds: float) -> list[Rate]:
    """Rates of single gets; with no seconds, only whether the values are right."""
    batcher = _batcher(nodes)
    await batcher.start()
    keys = [b"k%d" % number for number in range(KEYS)]
    told = [batcher.tell(key, "SET", key, key.ljust(VALUE_BYTES)) for key in keys]
    for call in told:
        await call.reply()
    for first in range(0, KEYS, 100):
        some = keys[first : first + 100]
        assert await batcher.get_all(some) == [key.ljust(VALUE_BYTES) for key in some]

    async def get(number: int) -> None:
        await batcher.get_all([keys[number % KEYS]])

    rates = [await drive(get, seconds) for _ in range(ROUNDS)] if seconds else []
    await batcher.close()
    return rates


async def loads(nodes: Nodes, seconds: float) -> list[Rate]:
    """Rates of page loads that Redis answers."""
    batcher, clock = _batcher(nodes), SystemClock()
    followees = native.pack_ids(range(10_000, 10_000 + FOLLOWEES))
    shown = native.pack_ids(range(1, 21))
    epochs = native.Epochs(memoryview(bytearray(EPOCHS_BYTES)))
    keys, state = Keys(), ReplicaState(epochs, clock)
    replica = NodeReplica(batcher, keys, state, NoRecord(), epochs, clock)
    validation = ClusterCacheValidation(batcher, keys, replica)
    pages = ClusterPageCache(batcher, keys, replica, validation, clock)
    await replica.start()
    rates = []
    made = 0

    async def load(number: int) -> None:
        nonlocal made
        user_id = number % KEYS + 1
        page = await pages.page(user_id, SHAPE)
        if page is None:  # there is none yet, or it is past its soft age
            made += 1
            page = SharedPage((b"%d" % user_id).ljust(VALUE_BYTES), shown)
            pages.keep_page(user_id, SHAPE, page, followees)
        assert int(page.body.rstrip()) == user_id

    for _ in range(ROUNDS if seconds else 1):
        for number in range(KEYS if seconds else CALLERS):
            await load(number)
        await batcher.tell(b"x", "PING").reply()
        made = 0
        if seconds:
            rates.append(await drive(load, seconds))
        else:
            for number in range(CALLERS):
                await load(number)
            assert made < CALLERS, "no page was found"
    await replica.close()
    await batcher.close()
    return rates


def _median(rates: list[Rate]) -> Rate:
    return Rate(*(statistics.median(values) for values in zip(*rates, strict=True)))


def _row(name: str, rates: list[Rate], goal: int) -> list[str]:
    rate = _median(rates)
    return [
        name, f"{rate.per_s:,.0f}", f"{rate.cpu_us:.1f}", f"{1e6 / rate.cpu_us:,.0f}",
        f"{rate.p99_ms:.1f}", f"{goal:,}",
    ]  # fmt: skip


def run(url: str, *, small: bool) -> None:
    """Every combination, and the table."""
    seconds = 0.0 if small else ROUND_S
    rows = []
    for loop_name, runner in (("asyncio", asyncio.run), ("uvloop", uvloop.run)):
        for name, nodes in (("redis-py", Nodes([url])), ("least", LeastNodes([url]))):
            for what, work, goal in (("gets", gets, GETS_GOAL), ("page loads", loads, LOADS_GOAL)):
                rates = runner(work(nodes, seconds))
                if rates:
                    rows.append(_row(f"{what}, {name}, {loop_name}", rates, goal))
    if small:
        print("redis: values and pages are as they were put")
        return
    head = ["what", "a second", "CPU us each", "a second of CPU", "p99 ms", "goal"]
    print_table(f"Redis, {CALLERS} callers, values of {VALUE_BYTES} bytes", head, rows)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="check results, measure nothing")
    small = parser.parse_args().small
    if shutil.which("redis-server") is None:
        print("SKIPPED: redis-server is not installed (apt-get install redis-server)")
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as directory:
        command = ["redis-server", "--port", str(port), "--dir", directory, "--save", ""]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            _wait_for(port)
            run(f"redis://127.0.0.1:{port}", small=small)
        finally:
            server.terminate()
            server.wait()


def _wait_for(port: int) -> None:
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise TimeoutError(f"redis on port {port} did not come up within 10 s")


if __name__ == "__main__":
    main()
