"""Group commit: shared transactions, separate failures, bounded queue, durable answers."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from pathlib import Path

import pytest

from feedcore.adapters.embedded.database import Writer, connect
from feedcore.errors import NotFound, Overloaded, StoreError
from feedcore.limits import WRITE_QUEUE_MAX


@pytest.fixture
def writer(tmp_path: Path):
    """A writer over one table."""
    conn = connect(tmp_path / "store.db", read_only=False)
    conn.execute("CREATE TABLE t (x INTEGER PRIMARY KEY)")
    conn.close()
    made = Writer(tmp_path / "store.db", tmp_path / "write.lock")
    yield made
    made.close()


def insert(number: int, *, fail: bool = False):
    """An operation that adds a row, and then may fail."""

    def work(conn: sqlite3.Connection) -> int:
        conn.execute("INSERT INTO t VALUES (?)", (number,))
        if fail:
            raise NotFound(f"{number}")
        return number

    return work


def numbers(tmp_path: Path) -> list[int]:
    """The rows, as another connection sees them."""
    conn = connect(tmp_path / "store.db", read_only=True)
    found = [row[0] for row in conn.execute("SELECT x FROM t ORDER BY x")]
    conn.close()
    return found


async def test_one_that_fails_changes_nothing_and_the_others_stand(
    writer: Writer, tmp_path: Path
) -> None:
    calls = [writer.run(insert(n, fail=n % 3 == 0)) for n in range(90)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    for number, result in enumerate(results):
        if number % 3 == 0:
            assert isinstance(result, NotFound)
        else:
            assert result == number
    assert numbers(tmp_path) == [n for n in range(90) if n % 3]


async def test_waiting_writes_share_a_commit(writer: Writer, tmp_path: Path) -> None:
    gate = threading.Event()
    first = asyncio.create_task(writer.run(lambda conn: gate.wait(10)))
    await asyncio.wait({first}, timeout=0)
    others = [asyncio.create_task(writer.run(_data_version(tmp_path))) for _ in range(50)]
    await asyncio.wait({first}, timeout=0)
    gate.set()
    await first
    seen = await asyncio.gather(*others)
    assert len(set(seen)) == 1, "all in one transaction"


def _data_version(tmp_path: Path):
    counter = connect(tmp_path / "store.db", read_only=True)

    def work(conn: sqlite3.Connection) -> int:
        conn.execute("INSERT INTO t DEFAULT VALUES")
        found = counter.execute("SELECT count(*) FROM t").fetchone()[0]
        counter.close()
        return found

    return work


async def test_a_full_queue_refuses(writer: Writer) -> None:
    gate = threading.Event()
    first = asyncio.create_task(writer.run(lambda conn: gate.wait(10)))
    await asyncio.wait({first}, timeout=0)
    waiting = [asyncio.create_task(writer.run(insert(n))) for n in range(WRITE_QUEUE_MAX + 10)]
    await asyncio.wait({first}, timeout=0)
    gate.set()
    await first
    results = await asyncio.gather(*waiting, return_exceptions=True)
    refused = [one for one in results if isinstance(one, Overloaded)]
    assert refused
    assert refused[0].retry_after_ms > 0
    assert len(refused) <= 10


async def test_a_cancelled_caller_leaves_the_others_alone(writer: Writer, tmp_path: Path) -> None:
    gate = threading.Event()
    first = asyncio.create_task(writer.run(lambda conn: gate.wait(10)))
    await asyncio.wait({first}, timeout=0)
    cancelled = asyncio.create_task(writer.run(insert(1)))
    kept = asyncio.create_task(writer.run(insert(2)))
    await asyncio.wait({first}, timeout=0)
    cancelled.cancel()
    gate.set()
    assert await kept == 2
    await first
    assert numbers(tmp_path) == [2]


async def test_closed_is_closed(tmp_path: Path) -> None:
    made = Writer(tmp_path / "store.db", tmp_path / "write.lock")
    made.close()
    with pytest.raises(StoreError, match="closed"):
        await made.run(insert(1))
