"""Session and its migrations, with both drivers, against a real server: what is promised to the
stores, and what happens when the server is away, silent, or back.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest

from feedcore import native
from feedcore.adapters.cql.driver.connect import open_session
from feedcore.adapters.cql.driver.options import CqlSettings
from feedcore.adapters.cql.driver.session import Consistency, SchemaSession, Statement, Write
from feedcore.domain import entry
from feedcore.errors import ConfigError, Overloaded, StoreError, Unavailable
from tests.support.proxy import Proxy

ID_MAX = 2**63 - 1
SINGLE = "{'class': 'SimpleStrategy', 'replication_factor': 1}"
TABLE = """CREATE TABLE feed (user_id bigint, content_id bigint, entry blob, mode text,
    lane tinyint, day int, shard smallint, quality float, score double, media boolean,
    at timestamp, PRIMARY KEY (user_id, content_id)) WITH CLUSTERING ORDER BY (content_id DESC)"""
INSERT = Statement("INSERT INTO feed (user_id, content_id, entry) VALUES (?, ?, ?)")
ENTRIES = Statement("SELECT entry FROM feed WHERE user_id = ?", Consistency.ONE, speculative=True)
ROW = Statement("SELECT content_id, entry FROM feed WHERE user_id = ? AND content_id = ?")
ABSENT = Statement(
    "INSERT INTO feed (user_id, content_id, mode, entry, media) VALUES (?, ?, ?, ?, ?)"
    " IF NOT EXISTS"
)
COLUMNS = "user_id, content_id, entry, mode, lane, day, shard, quality, score, media"
ALL = Statement(f"SELECT {COLUMNS} FROM feed WHERE user_id = ?")
INSERT_ALL = Statement(f"INSERT INTO feed ({COLUMNS}) VALUES ({', '.join('?' * 10)})")


@pytest.fixture(scope="module", params=["acsylla", "scylla-driver"])
def driver(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def keyspace(cassandra: str) -> Iterator[str]:
    """With the table `feed`, as long as this module runs: a busy server makes one in seconds."""
    name = f"cqlsession_{secrets.token_hex(6)}"

    async def define(*statements: str) -> None:
        maker = await open_session(CqlSettings((cassandra,)))
        for statement in statements:
            await maker.define(statement)
        await maker.close()

    table = TABLE.replace("feed", f"{name}.feed", 1)
    asyncio.run(define(f"CREATE KEYSPACE {name} WITH replication = {SINGLE}", table))
    yield name
    asyncio.run(define(f"DROP KEYSPACE {name}"))


@pytest.fixture
def settings(cassandra: str, driver: str, keyspace: str) -> CqlSettings:
    return CqlSettings((cassandra,), keyspace=keyspace, driver=driver, request_timeout_s=10.0)


@pytest.fixture
def user() -> int:
    """Somebody without rows."""
    return secrets.randbelow(2**62) + 2**61


@pytest.fixture
async def session(settings: CqlSettings) -> AsyncIterator[SchemaSession]:
    opened = await open_session(settings)
    yield opened
    await opened.close()


def entry_of(content_id: int) -> bytes:
    return entry.pack(content_id, 7, 1.0, 0)


async def test_what_is_written_is_read(session: SchemaSession, user: int) -> None:
    full = (
        user,
        ID_MAX,
        b"\0e\xff",
        "a\0\u00e9\U0001f600",
        -128,
        -(2**31),
        2**15 - 1,
        0.5,
        0.1,
        True,
    )
    nulls = (user, 1, *[None] * 8)
    empty = (user, 2, b"", "", 127, 0, 0, 0.0, -0.0, False)
    for row in (full, nulls, empty):
        await session.write(INSERT_ALL, row)
    assert await session.read(ALL, (user,)) == [full, empty, nulls]
    assert await session.read(ALL, (user + 1,)) == []
    await session.write(INSERT, (ID_MAX, ID_MAX, b"e"))
    assert await session.read(ROW, (ID_MAX, ID_MAX)) == [(ID_MAX, b"e")]


async def test_a_null_erases_and_a_missing_parameter_is_refused(
    session: SchemaSession, user: int
) -> None:
    await session.write(INSERT, (user, 1, b"e"))
    for parameters in ((user, 1), (user,), (), (user, 1, b"e", 4)):
        with pytest.raises(StoreError, match="3 wanted"):
            await session.write(INSERT, parameters)
    assert await session.read(ROW, (user, 1)) == [(1, b"e")]
    await session.write(INSERT, (user, 1, None))
    assert await session.read(ROW, (user, 1)) == [(1, None)]
    assert await session.read_packed(ROW, (user, 1)) == (1).to_bytes(8, "big")


async def test_pages_are_fetched_behind(session: SchemaSession, user: int) -> None:
    rows = 6_000  # two pages
    ids = native.pack_ids(range(1, rows + 1))
    swapped = Statement("INSERT INTO feed (content_id, user_id, entry) VALUES (?, ?, ?)")
    await session.write_packed(swapped, ids, (user, b"x" * 20))
    await session.write(INSERT, (user, 3_000, None))
    read = await session.read(Statement("SELECT content_id FROM feed WHERE user_id = ?"), (user,))
    assert read == [(one,) for one in range(rows, 0, -1)]
    assert await session.read_packed(ENTRIES, (user,)) == b"x" * 20 * (rows - 1)


async def test_packed_entries_are_the_bytes_of_the_rows(session: SchemaSession, user: int) -> None:
    ids = [1, 2**22, 2**62, ID_MAX]
    await session.write_many([Write(INSERT, (user, one, entry_of(one))) for one in ids])
    packed = await session.read_packed(ENTRIES, (user,))
    assert entry.content_ids(packed) == sorted(ids, reverse=True)
    assert await session.read_packed(ENTRIES, (user + 1,)) == b""


async def test_many_answers_come_in_the_order_of_their_keys(
    session: SchemaSession, user: int
) -> None:
    keys = list(range(1, 400))
    await session.write_many([Write(INSERT, (user + key, key, b"%d" % key)) for key in keys])
    answers = await session.read_many(ROW, [(user + key, key) for key in keys] + [(user, 1)])
    assert answers == [[(key, b"%d" % key)] for key in keys] + [[]]
    assert await session.read_many(ROW, []) == []
    await session.write_many([])


async def test_a_list_is_a_parameter(session: SchemaSession, user: int) -> None:
    await session.write_many([Write(INSERT, (user, one, None)) for one in (1, 2, 3)])
    some = Statement("SELECT content_id FROM feed WHERE user_id = ? AND content_id IN ?")
    assert sorted(await session.read(some, (user, [1, 3, 9]))) == [(1,), (3,)]
    assert await session.read(some, (user, [])) == []


async def test_types_of_the_driver(session: SchemaSession, user: int) -> None:
    """A column that our decoder does not know makes the driver decode the row."""
    await session.write(INSERT, (user, 1, b"e"))
    read = await session.read(
        Statement("SELECT content_id, at, entry FROM feed WHERE user_id = ?"), (user,)
    )
    assert read == [(1, None, b"e")]


@pytest.mark.parametrize("logged", [True, False])
async def test_a_batch_is_all_or_none(session: SchemaSession, logged: bool, user: int) -> None:
    writes = [Write(INSERT, (user, one, b"e")) for one in range(1, 11)]
    await session.batch(writes, logged=logged)
    assert len(await session.read(ALL, (user,))) == 10
    wrong = Write(INSERT, (user, None, b"e"))
    with pytest.raises(StoreError):
        await session.batch([Write(INSERT, (user, 99, b"e")), wrong], logged=logged)
    assert await session.read(ROW, (user, 99)) == []


async def test_one_of_many_inserts_is_the_first(session: SchemaSession, user: int) -> None:
    contents = [bytes([one]) for one in range(8)]
    lost = await asyncio.gather(
        *(session.insert_if_absent(ABSENT, (user, ID_MAX, None, one, True)) for one in contents)
    )
    won = [one for one, row in zip(contents, lost, strict=True) if row is None]
    assert len(won) == 1
    for row in lost:
        assert row is None or (row["entry"], row["content_id"]) == (won[0], ID_MAX)
        assert row is None or (row["mode"], row["media"], row["lane"]) == (None, True, None)


async def test_a_condition_on_a_row_that_is_not_there(session: SchemaSession, user: int) -> None:
    update = Statement(
        "UPDATE feed SET entry = ? WHERE user_id = ? AND content_id = ? IF entry = ?"
    )
    assert await session.insert_if_absent(update, (b"b", user, 1, b"a")) is not None
    await session.write(INSERT, (user, 1, b"a"))
    assert await session.insert_if_absent(update, (b"b", user, 1, b"a")) is None
    assert await session.insert_if_absent(update, (b"b", user, 1, b"a")) == {"entry": b"b"}


async def test_timestamps_decide(session: SchemaSession, user: int) -> None:
    put = Statement(
        "INSERT INTO feed (user_id, content_id, entry) VALUES (?, ?, ?) USING TIMESTAMP ?"
    )
    drop = Statement("DELETE FROM feed USING TIMESTAMP ? WHERE user_id = ? AND content_id = ?")
    await session.write(put, (user, 1, b"new", 2_000))
    await session.write(drop, (1_000, user, 1))
    await session.write(put, (user, 1, b"old", 1_500))
    assert await session.read(ROW, (user, 1)) == [(1, b"new")]
    await session.write(drop, (2_000, user, 1))
    assert await session.read(ROW, (user, 1)) == []


@pytest.mark.parametrize(
    ("cql", "parameters"),
    [
        ("SELECT * FROM nowhere WHERE user_id = ?", (1,)),
        ("SELECT nothing FROM feed WHERE user_id = ?", (1,)),
        ("SELEC", ()),
        ("SELECT * FROM feed WHERE user_id = ?", (2**63,)),
        ("SELECT * FROM feed WHERE user_id = ?", ("one",)),
        ("SELECT * FROM feed WHERE user_id = ?", (None,)),
        ("INSERT INTO feed (user_id, content_id, lane) VALUES (1, 1, ?)", (128,)),
    ],
)
async def test_a_wrong_statement_is_a_store_error(
    session: SchemaSession, cql: str, parameters: tuple
) -> None:
    for _ in range(2):  # the failure to prepare it is not kept
        with pytest.raises(StoreError):
            await session.read(Statement(cql), parameters)


async def test_the_first_error_comes_after_all_have_ended(
    session: SchemaSession, user: int
) -> None:
    writes = [Write(INSERT, (user, one, b"e")) for one in range(1, 100)]
    with pytest.raises(StoreError):
        await session.write_many([*writes, Write(INSERT, (user, None, b"e"))])
    assert len(await session.read(ALL, (user,))) == 99
    with pytest.raises(ValueError, match="7 bytes"):
        await session.write_packed(INSERT, b"1234567", (user, b""))


async def test_a_statement_is_prepared_once(session: SchemaSession, user: int) -> None:
    statement = Statement("SELECT entry FROM feed WHERE user_id = ? AND content_id < ?")
    await asyncio.gather(*(session.read(statement, (user, 2)) for _ in range(50)))
    assert len(session._prepared) == 1 and not session._preparing


async def test_too_many_calls_are_refused(settings: CqlSettings, user: int) -> None:
    session = await open_session(replace(settings, in_flight_max=2, waiting_max=5))
    await session.write(INSERT, (user, 1, b"e"))
    ends = await asyncio.gather(
        *(session.read(ROW, (user, 1)) for _ in range(20)), return_exceptions=True
    )
    assert [end for end in ends if not isinstance(end, Overloaded)] == [[(1, b"e")]] * 7
    assert await session.read(ROW, (user, 1)) == [(1, b"e")]
    await session.close()


async def test_a_cancelled_caller_harms_nobody(settings: CqlSettings, user: int) -> None:
    session = await open_session(replace(settings, in_flight_max=64))
    keys = range(1, 501)
    await session.write_many([Write(INSERT, (user + key, key, b"%d" % key)) for key in keys])
    for left in range(4):
        calls = [asyncio.create_task(session.read(ROW, (user + key, key))) for key in keys]
        for _ in range(left * 3):  # nothing sent, some sent, some answered
            await asyncio.sleep(0)
        for call in calls[::2]:
            call.cancel()
        ends = await asyncio.gather(*calls, return_exceptions=True)
        assert ends[1::2] == [[(key, b"%d" % key)] for key in keys[1::2]]
    await asyncio.wait_for(session._flight.emptied(), 10)
    assert (session._flight.active, session._flight.waiting) == (0, 0)
    await session.close()


async def test_cancelled_while_it_prepares(session: SchemaSession, user: int) -> None:
    statement = Statement("SELECT user_id FROM feed WHERE user_id = ? AND content_id > ?")
    calls = [asyncio.create_task(session.read(statement, (user, 1))) for _ in range(3)]
    await asyncio.sleep(0)
    calls[0].cancel()
    ends = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(ends[0], asyncio.CancelledError) and ends[1:] == [[], []]


async def test_closing_ends_what_is_under_way(settings: CqlSettings, user: int) -> None:
    session = await open_session(settings)
    await session.write(INSERT, (user, 1, b"e"))
    calls = [asyncio.create_task(session.read(ROW, (user, 1))) for _ in range(600)]
    await asyncio.sleep(0.001)
    await session.close()
    ends = await asyncio.gather(*calls, return_exceptions=True)
    assert all(end == [(1, b"e")] or isinstance(end, Unavailable) for end in ends)
    with pytest.raises(Unavailable, match="closed"):
        await session.read(ROW, (user, 1))
    with pytest.raises(Unavailable, match="closed"):
        await session.read(ENTRIES, (user,))
    await session.close()


async def test_nobody_answers(driver: str) -> None:
    with socket.socket() as bound:  # not listening: refused
        bound.bind(("127.0.0.1", 0))
        point = f"127.0.0.1:{bound.getsockname()[1]}"
        started = time.monotonic()
        with pytest.raises(Unavailable, match=point):
            await open_session(CqlSettings((point,), driver=driver))
        assert time.monotonic() - started < 5


async def test_somebody_else_answers_nothing(driver: str) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        point = f"127.0.0.1:{silent.getsockname()[1]}"
        started = time.monotonic()
        with pytest.raises(Unavailable, match=point):
            await open_session(CqlSettings((point,), driver=driver, connect_timeout_s=0.5))
        assert time.monotonic() - started < 12


async def test_settings_that_cannot_work(cassandra: str, driver: str) -> None:
    with pytest.raises(StoreError, match="no keyspace 'nowhere'; run 'feedcore migrate'"):
        await open_session(CqlSettings((cassandra,), keyspace="nowhere", driver=driver))
    for points in ((), ("localhost",), ("localhost:x",), (":1",)):
        with pytest.raises(ConfigError, match="contact points"):
            await open_session(CqlSettings(points, driver=driver))
    assert "secret" not in repr(CqlSettings((cassandra,), user="u", password="secret"))


async def until_read(session: SchemaSession, user: int, seconds: float) -> list[tuple]:
    """What is read once it can be, within that time."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return await session.read(ROW, (user, 1))
        except Unavailable:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.05)


async def test_all_nodes_die_and_come_back(settings: CqlSettings, user: int) -> None:
    host, _, port = settings.contact_points[0].rpartition(":")
    async with Proxy(host, int(port)) as proxy:
        there = replace(settings, contact_points=(proxy.address,), request_timeout_s=2.0)
        session = await open_session(there)
        await session.write(INSERT, (user, 1, b"e"))
        for _ in range(2):
            calls = [asyncio.create_task(session.read(ROW, (user, 1))) for _ in range(100)]
            await asyncio.sleep(0)
            proxy.refusing = True
            proxy.drop()
            for end in await asyncio.gather(*calls, return_exceptions=True):
                assert isinstance(end, Unavailable) or end == [(1, b"e")]
            with pytest.raises(Unavailable):
                await session.read(ROW, (user, 1))
            await asyncio.sleep(1)
            proxy.refusing = False
            assert await until_read(session, user, 10) == [(1, b"e")]
        await session.close()


async def test_a_server_that_falls_silent(settings: CqlSettings, user: int) -> None:
    host, _, port = settings.contact_points[0].rpartition(":")
    async with Proxy(host, int(port)) as proxy:
        there = replace(settings, contact_points=(proxy.address,), request_timeout_s=1.0)
        session = await open_session(there)
        await session.write(INSERT, (user, 1, b"e"))
        await session.read(ROW, (user, 1))
        await session.read_packed(ENTRIES, (user,))
        proxy.pause()
        started = time.monotonic()
        calls = [session.read(ROW, (user, 1)) for _ in range(20)]
        ends = await asyncio.gather(
            *calls, session.read_packed(ENTRIES, (user,)), return_exceptions=True
        )
        assert {type(end) for end in ends} == {Unavailable}
        assert time.monotonic() - started < 3
        proxy.resume()
        assert await until_read(session, user, 10) == [(1, b"e")]
        await session.close()
