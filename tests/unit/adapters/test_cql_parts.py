"""Parts of the CQL adapter that need no server: packed writes, files of migrations, addresses."""

from __future__ import annotations

import asyncio

import pytest

from feedcore.adapters.cql.driver.batching import BatchingSession
from feedcore.adapters.cql.driver.options import PACKED_IN_FLIGHT_MAX, CqlSettings, addresses
from feedcore.adapters.cql.driver.session import Statement
from feedcore.adapters.cql.schema.migrate import known_migrations, migration_of, split_statements
from feedcore.errors import ConfigError, StoreError


async def turns(count: int = 3) -> None:
    loop = asyncio.get_running_loop()
    for _ in range(count):
        turn = loop.create_future()
        loop.call_soon(turn.set_result, None)
        await turn


class Slow(BatchingSession):
    """Rows take until `go`."""

    def __init__(self) -> None:
        super().__init__(CqlSettings(("127.0.0.1:9042",)))
        self.go = asyncio.Event()
        self.under_way = self.most = self.written = 0

    async def _prepare_now(self, text: str) -> str:
        return text

    async def _end(self) -> None:
        """There is no connection to end."""

    async def read(self, statement, parameters=()):
        raise AssertionError("nothing is read")

    async def write(self, statement, parameters=()) -> None:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await self.go.wait()
        finally:
            self.under_way -= 1
        self.written += 1


async def test_rows_of_all_fan_outs_together_are_bounded() -> None:
    session, users = Slow(), bytes(8 * 150)
    calls = [asyncio.create_task(session.write_packed(Statement("x"), users, ())) for _ in range(4)]
    await turns()
    assert session.under_way == PACKED_IN_FLIGHT_MAX
    calls[0].cancel()
    await turns(10)
    assert session.under_way == PACKED_IN_FLIGHT_MAX, "their places went to others"
    session.go.set()
    await asyncio.gather(*calls, return_exceptions=True)
    assert session.most == PACKED_IN_FLIGHT_MAX and session.written >= 3 * 150


def test_statements_end_with_a_semicolon_at_the_end_of_a_line() -> None:
    text = "-- one; two;\nCREATE a (b text, -- c\n  d;e);  \n\n-- x\nDROP f; -- why\nALTER g"
    assert split_statements(text) == ("CREATE a (b text, -- c\n  d;e)", "DROP f", "ALTER g")
    assert split_statements("-- nothing;\n\n") == ()


def test_files_of_migrations() -> None:
    known = known_migrations()
    assert str(known[0]) == "0001_base"
    for migration in known:
        assert migration.statements
        for statement in migration.statements:
            assert "{keyspace}." in statement
    for name in ("1_base.cql", "0001-base.cql", "0001_Base.cql", "0001_base.sql"):
        with pytest.raises(StoreError, match="NNNN_name.cql"):
            migration_of(name, "")


def test_addresses() -> None:
    assert addresses(("db-1:9042", "[::1]:9043")) == [("db-1", 9042), ("::1", 9043)]
    with pytest.raises(ConfigError, match="must be HOST:PORT"):
        addresses(("db-1",))
