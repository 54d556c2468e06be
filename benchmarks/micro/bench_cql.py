"""Both CQL drivers on a real server: `python -m benchmarks.micro.bench_cql [--small]`.

The server is FEEDCORE_TEST_CASSANDRA=HOST:PORT, or the one of build/services (scripts/services).
Rounds of both drivers alternate in one process, so that both meet the same neighbours; medians.
What counts is the client's CPU (user and system, all of its threads): the rate is mostly the
server's, above all where it runs on the same cores.

    write 64, 512   one row of a feed at LOCAL_QUORUM, by so many callers
    point           one row by its key, 64 callers
    packed, rows    500 rows of one 20-byte blob as read_packed and as read, 16 callers
    viewer          500 rows (tinyint, bigint, bigint, blob), 16 callers
    mixed           a write, a point read and a packed read of 500 rows, in turn, 64 callers
    fan-out         write_packed: one entry to 1,000 feeds

--small checks results and runs none of the rounds; without a server it says so and ends well.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import secrets
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.micro.report import print_table
from feedcore import native
from feedcore.adapters.cql.driver.connect import open_session
from feedcore.adapters.cql.driver.options import CqlSettings
from feedcore.adapters.cql.driver.session import Consistency, SchemaSession, Statement, Write
from feedcore.domain import entry

SERVICES = Path(__file__).resolve().parents[2] / "build" / "services" / "services.json"
DRIVERS = ("acsylla", "scylla-driver")
ROWS = 500
TARGETS = 1_000
USER = 1
INSERT = Statement("INSERT INTO feed (user_id, content_id, entry) VALUES (?, ?, ?)")
POINT = Statement("SELECT entry FROM feed WHERE user_id = ? AND content_id = ?", Consistency.ONE)
FEED = Statement("SELECT entry FROM feed WHERE user_id = ? LIMIT 500", Consistency.ONE)
VIEWER = Statement("SELECT kind, target_id, extra, value FROM viewer WHERE user_id = ?")
INSERT_VIEWER = Statement(
    "INSERT INTO viewer (user_id, kind, target_id, extra, value) VALUES (?, ?, ?, ?, ?)"
)
TABLES = (
    "CREATE TABLE {}.feed (user_id bigint, content_id bigint, entry blob,"
    " PRIMARY KEY (user_id, content_id)) WITH CLUSTERING ORDER BY (content_id DESC)",
    "CREATE TABLE {}.viewer (user_id bigint, kind tinyint, target_id bigint, extra bigint,"
    " value blob, PRIMARY KEY (user_id, kind, target_id))",
)
Step = Callable[[SchemaSession, int], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the table: `per` operations a step."""

    name: str
    callers: int
    steps: int
    run: Step
    per: int = 1


def entry_of(content_id: int) -> bytes:
    return entry.pack(content_id, 7, 1.0, 0)


async def write(session: SchemaSession, place: int) -> None:
    await session.write(INSERT, (2, place + 1, entry_of(place + 1)))


async def point(session: SchemaSession, place: int) -> list[tuple]:
    return await session.read(POINT, (USER, place % ROWS + 1))


async def packed(session: SchemaSession, place: int) -> bytes:
    return await session.read_packed(FEED, (USER,))


async def rows(session: SchemaSession, place: int) -> list[tuple]:
    return await session.read(FEED, (USER,))


async def viewer(session: SchemaSession, place: int) -> list[tuple]:
    return await session.read(VIEWER, (USER,))


async def mixed(session: SchemaSession, place: int) -> None:
    await (write, point, packed)[place % 3](session, place)


async def fanout(session: SchemaSession, place: int) -> None:
    targets = native.pack_ids(range(10, 10 + TARGETS))
    await session.write_packed(INSERT, targets, (place + 1, entry_of(place + 1)))


CASES = [
    Case("write, 64 callers", 64, 2_000, write),
    Case("write, 512 callers", 512, 2_000, write),
    Case("point read", 64, 2_000, point),
    Case("packed, 500 rows", 16, 200, packed),
    Case("rows, 500 rows", 16, 200, rows),
    Case("viewer, 500 rows of four", 16, 200, viewer),
    Case("mixed", 64, 900, mixed),
    Case("fan-out to 1,000", 1, 2, fanout, TARGETS),
]


def server() -> str:
    """HOST:PORT, or empty."""
    address = os.environ.get("FEEDCORE_TEST_CASSANDRA", "")
    if not address and SERVICES.exists():
        nodes = json.loads(SERVICES.read_text()).get("nodes", {}).values()
        found = [node["address"] for node in nodes if node["kind"] == "cassandra"]
        address = found[0] if found else ""
    return address


async def prepare_world(maker: SchemaSession, keyspace: str) -> None:
    await maker.define(
        f"CREATE KEYSPACE {keyspace} WITH replication ="
        " {'class': 'SimpleStrategy', 'replication_factor': 1}"
    )
    for table in TABLES:
        await maker.define(table.format(keyspace))


async def fill(session: SchemaSession) -> None:
    ids = range(1, ROWS + 1)
    await session.write_many([Write(INSERT, (USER, one, entry_of(one))) for one in ids])
    await session.write_many(
        [Write(INSERT_VIEWER, (USER, one % 4, one, one << 20, None)) for one in ids]
    )


async def check(session: SchemaSession) -> None:
    """What is measured gives what it should."""
    newest = [entry_of(one) for one in range(ROWS, 0, -1)]
    if await packed(session, 0) != b"".join(newest):
        raise AssertionError("packed read")
    if await rows(session, 0) != [(one,) for one in newest]:
        raise AssertionError("rows")
    if len(await viewer(session, 0)) != ROWS or await point(session, 4) != [(entry_of(5),)]:
        raise AssertionError("viewer or point read")
    await write(session, 8)
    await fanout(session, 8)
    for user in (2, 10, 9 + TARGETS):
        if await session.read(POINT, (user, 9)) != [(entry_of(9),)]:
            raise AssertionError(f"write to user {user}")


async def measure(session: SchemaSession, case: Case, steps: int) -> tuple[float, float]:
    """(CPU us an operation, operations a second)."""
    places = iter(range(steps))

    async def caller() -> None:
        for place in places:
            await case.run(session, place)

    before, started = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(case.callers):
            group.create_task(caller())
    took = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu / (steps * case.per) * 1e6, steps * case.per / took


async def compare(sessions: dict[str, SchemaSession], rounds: int) -> None:
    table = []
    for case in CASES:
        figures: dict[str, list[tuple[float, float]]] = {name: [] for name in sessions}
        for session in sessions.values():
            await measure(session, case, max(1, case.steps // 10))
        for turn in range(rounds):
            names = list(sessions) if turn % 2 else list(sessions)[::-1]
            for name in names:
                figures[name].append(await measure(sessions[name], case, case.steps))
        line, cpus = [case.name], []
        for name in sessions:
            cpu, rate = (statistics.median(column) for column in zip(*figures[name], strict=True))
            least = min(one for one, _ in figures[name])
            cpus.append(cpu)
            line += [f"{cpu:.0f} ({least:.0f})", f"{rate:,.0f}"]
        table.append([*line, f"{cpus[1] / cpus[0]:.1f}"])
        print(" | ".join(table[-1]), file=sys.stderr, flush=True)
    head = ["case"]
    for name in sessions:
        head += [f"{name}: CPU us (least)", "/s"]
    load = os.getloadavg()[0]
    title = f"Client CPU an operation, medians of {rounds} rounds; load of the machine {load:.0f}"
    print_table(title, [*head, "CPU ratio"], table)


async def main(small: bool, rounds: int) -> None:
    address = server()
    if not address:
        print("bench_cql: SKIPPED, no server: set FEEDCORE_TEST_CASSANDRA=HOST:PORT")
        return
    keyspace = f"bench_cql_{secrets.token_hex(4)}"
    bare = CqlSettings((address,), request_timeout_s=10.0)
    maker = await open_session(bare)
    try:
        await prepare_world(maker, keyspace)
        sessions = {
            name: await open_session(replace(bare, keyspace=keyspace, driver=name))
            for name in DRIVERS
        }
        for session in sessions.values():
            await fill(session)
            await check(session)
        if not small:
            await compare(sessions, rounds)
        for session in sessions.values():
            await session.close()
    finally:
        await maker.define(f"DROP KEYSPACE IF EXISTS {keyspace}")
        await maker.close()
    if small:
        print("bench_cql: both drivers give what they should")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="check results, measure nothing")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    asyncio.run(main(arguments.small, arguments.rounds))
