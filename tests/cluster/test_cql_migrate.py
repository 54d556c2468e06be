"""Migrations against a real server, both drivers: twice, at once, changed, newer, half done."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator

import pytest

from feedcore.adapters.cql.driver.connect import open_session
from feedcore.adapters.cql.driver.options import CqlSettings
from feedcore.adapters.cql.driver.session import SchemaSession, Statement
from feedcore.adapters.cql.schema.migrate import (
    Migration,
    check,
    known_migrations,
    migrate,
    migration_of,
)
from feedcore.errors import ConfigError, StoreError

SINGLE = {"class": "SimpleStrategy", "replication_factor": 1}
BASE = known_migrations()[0]
SECOND_TEXT = """-- a comment; with a semicolon
CREATE TABLE IF NOT EXISTS {keyspace}.second (
    -- inside; too;
    id bigint PRIMARY KEY  -- and behind
);

ALTER TABLE {keyspace}.second ADD IF NOT EXISTS note text;
"""
SECOND = migration_of("0002_second.cql", SECOND_TEXT)


@pytest.fixture(params=["acsylla", "scylla-driver"])
async def session(cassandra: str, request: pytest.FixtureRequest) -> AsyncIterator[SchemaSession]:
    opened = await open_session(
        CqlSettings((cassandra,), driver=request.param, request_timeout_s=10.0)
    )
    yield opened
    await opened.close()


@pytest.fixture
async def keyspace(session: SchemaSession) -> AsyncIterator[str]:
    name = f"cqlmigrate_{secrets.token_hex(6)}"
    yield name
    await session.define(f"DROP KEYSPACE IF EXISTS {name}")


async def values(session: SchemaSession, keyspace: str) -> dict[str, bytes]:
    return dict(await session.read(Statement(f"SELECT key, value FROM {keyspace}.meta")))


async def test_a_schema_from_nothing_to_checked(
    session: SchemaSession, keyspace: str, cassandra: str
) -> None:
    async def run(migrations: list[Migration]) -> list[str]:
        return await migrate(session, keyspace, SINGLE, migrations=migrations)

    # two at once: one applies, the other waits and finds nothing left
    done = await asyncio.gather(run([BASE, SECOND]), run([BASE, SECOND]))
    assert sorted(done) == [[], ["0001_base", "0002_second"]]
    made = await values(session, keyspace)
    assert {key: len(value) for key, value in made.items()} == {
        "cursor_secret": 32,
        "cluster_id": 16,
    }  # and no lock
    assert await run([BASE, SECOND]) == []
    assert await values(session, keyspace) == made

    there = await open_session(CqlSettings((cassandra,), keyspace=keyspace))
    await check(there, [BASE, SECOND])
    with pytest.raises(StoreError, match="0003_third not applied; run 'feedcore migrate'"):
        await check(there, [BASE, SECOND, migration_of("0003_third.cql", "")])
    changed = migration_of("0002_second.cql", SECOND_TEXT + "-- more")
    for refused in (check(there, [BASE, changed]), run([BASE, changed])):
        with pytest.raises(StoreError, match="0002_second was applied as second with checksum"):
            await refused
    for refused in (check(there, [BASE]), run([BASE])):
        with pytest.raises(StoreError, match=r"at version 2 \(second\), newer than this code"):
            await refused
    await there.close()


async def test_a_file_that_fails_is_begun_again(session: SchemaSession, keyspace: str) -> None:
    broken = migration_of("0002_second.cql", SECOND_TEXT + "ALTER TABLE {keyspace}.none ADD a int;")
    with pytest.raises(StoreError, match="none"):
        await migrate(session, keyspace, SINGLE, migrations=[BASE, broken])
    assert "migration_lock" not in await values(session, keyspace)
    whole = [BASE, SECOND]
    assert await migrate(session, keyspace, SINGLE, migrations=whole) == ["0002_second"]


async def test_nothing_migrated(cassandra: str, keyspace: str, session: SchemaSession) -> None:
    options = "{'class': 'SimpleStrategy', 'replication_factor': 1}"
    await session.define(f"CREATE KEYSPACE {keyspace} WITH replication = {options}")
    there = await open_session(CqlSettings((cassandra,), keyspace=keyspace))
    with pytest.raises(StoreError, match="no table schema_migrations; run 'feedcore migrate'"):
        await check(there)
    await there.close()


@pytest.mark.parametrize("name", ["Feed", "feed;", "", "f" * 49, "1feed"])
async def test_names_that_are_none(session: SchemaSession, name: str) -> None:
    with pytest.raises(ConfigError, match="cql keyspace"):
        await migrate(session, name, SINGLE)


async def test_replication_is_no_place_for_cql(session: SchemaSession, keyspace: str) -> None:
    with pytest.raises(ConfigError, match="cql replication"):
        await migrate(session, keyspace, {"class": "SimpleStrategy' } --"})
