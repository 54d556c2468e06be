"""Pages and viewer rows in Redis: served exactly as long as they would be made again."""

from __future__ import annotations

import asyncio
import random

import pytest

from feedcore import native
from feedcore.adapters.cluster.record_reader import RENEW_S
from feedcore.adapters.cluster.row_cache import ROW_AGE_MAX_MS
from feedcore.adapters.redis import pages as codec
from feedcore.adapters.redis.keys import PAGE_TTL_MS, Keys
from feedcore.limits import PAGE_AGE_MAX_MS, PAGE_SOFT_AGE_MS
from feedcore.ports.page_cache import NO_PAGE, SharedPage
from feedcore.ports.preferences import ViewerFilters
from feedcore.ports.resident import ViewerRow
from tests.cluster.redisworld import Node, Record, Writer, fresh_prefix
from tests.support.redisserver import RedisServer

USERS, AUTHORS = range(1, 13), range(100, 140)
SHAPE = b"20f"
STEPS = 3_000


class World:
    """Everything that a page depends on."""

    def __init__(self, rng: random.Random) -> None:
        self.followees = {
            user_id: native.pack_ids(rng.sample(AUTHORS, rng.randint(1, 12))) for user_id in USERS
        }
        self.followees[USERS[0]] = b""
        self.viewers = dict.fromkeys(USERS, 0)
        self.posts: dict[int, int] = dict.fromkeys([*AUTHORS, *USERS], 0)
        self.shown: dict[int, list[int]] = {}
        self.deleted = 0
        self.changes = 0
        self.trending = 0

    def page_of(self, user_id: int) -> tuple[bytes, bytes]:
        """The body that would be made now, and what it shows."""
        authors = [*native.unpack_ids(self.followees[user_id]), user_id]
        newest = [self.posts[author] for author in authors]
        # trending is what a page of somebody who follows nobody is made of
        trending = self.trending if len(authors) == 1 else 0
        shown = [one for one in newest if one and one not in self.gone]
        body = repr((self.viewers[user_id], newest, shown, self.changes, trending)).encode()
        return body, b"".join(one.to_bytes(8, "little") for one in shown)

    gone: set[int] = set()


async def _change(world: World, writer: Writer, node: Node, rng: random.Random) -> None:
    kind = rng.random()
    if kind < 0.35:
        author = rng.choice([*AUTHORS, *USERS])
        world.posts[author] = await writer.post(node, author, pulled=rng.random() < 0.3)
    elif kind < 0.55:
        newest = [one for one in world.posts.values() if one]
        if newest:
            content_id = rng.choice(newest)
            world.gone.add(content_id)
            await writer.delete(node, content_id)
    elif kind < 0.85:
        user_id = rng.choice(USERS)
        world.viewers[user_id] += 1
        await node.replica.announce([user_id])
    elif kind < 0.9:
        world.changes += 1
        await writer.settings(node, "ranking", {"version": world.changes})
    elif kind < 0.95:
        world.changes += 1
        await writer.set_mode(node, rng.choice(AUTHORS), rng.randint(0, 2))
    else:
        world.trending += 1
        await writer.settings(node, "trending", {})


async def _page(node: Node, user_id: int, *, many: bool) -> bytes | None:
    """Asked for alone, or as one of many."""
    if many:
        asked = [(user_id, b""), (user_id, SHAPE), (USERS[0], b"")]
        known, found, _ = await node.pages.pages_of(asked)
        if found is not None:
            assert known == NO_PAGE
            return found.body or None
    return await body_at(node, user_id)


async def body_at(node: Node, user_id: int) -> bytes | None:
    """Of the page that the node would serve."""
    found = await node.pages.page(user_id, SHAPE)
    return found and found.body


def leave(node: Node, user_id: int, body: bytes, shown: bytes, followees: bytes) -> None:
    """The node has made a page."""
    node.pages.keep_page(user_id, SHAPE, SharedPage(body, shown), followees)


@pytest.mark.parametrize("many", [False, True])
async def test_a_page_is_served_exactly_while_it_would_be_made_again(
    redis_url: str, many: bool
) -> None:
    record, prefix, rng = Record(), fresh_prefix(), random.Random(7)
    world, writer = World(rng), Writer(record)
    world.gone = set()
    kept: dict[int, bytes] = {}
    served = refused = 0
    async with Node([redis_url], record, prefix) as a, Node([redis_url], record, prefix) as b:
        for node in (a, b):
            node.followees = world.followees
        for step in range(STEPS):
            if rng.random() < 0.4:
                await _change(world, writer, rng.choice((a, b)), rng)
            node, user_id = rng.choice((a, b)), rng.choice(USERS)
            body, shown = world.page_of(user_id)
            found = await _page(node, user_id, many=many)
            if found is not None:
                assert found == body, f"step {step}, user {user_id}"
                served += 1
                continue
            assert kept.get(user_id) != body, f"step {step}, user {user_id}: nothing had changed"
            refused += user_id in kept
            leave(node, user_id, body, shown, world.followees.get(user_id, b""))
            kept[user_id] = body
            await node.batcher.tell(b"x", "PING").reply()
    assert served > STEPS // 20 and refused > STEPS // 20


@pytest.mark.parametrize("many", [False, True])
async def test_a_page_that_was_overtaken_is_not_served(redis_url: str, many: bool) -> None:
    """Makers are slow, and there are several of one page: what is served is as of the asking."""
    record, prefix, rng = Record(), fresh_prefix(), random.Random(8)
    durable, acknowledged = dict.fromkeys(USERS, 0), dict.fromkeys(USERS, 0)
    served = 0
    done = False

    async def write(node: Node) -> None:
        for number in range(1, 600):
            user_id = rng.choice(USERS)
            durable[user_id] = max(durable[user_id], number)
            await asyncio.sleep(rng.choice((0, 0.002)))
            await node.replica.announce([user_id])
            acknowledged[user_id] = max(acknowledged[user_id], number)
            await asyncio.sleep(0.003)

    async def read(node: Node) -> None:
        nonlocal served
        while not done:
            user_id = rng.choice(USERS)
            expected = acknowledged[user_id]
            found = await _page(node, user_id, many=many)
            if found is not None:
                served += 1
                assert int(found) >= expected, f"user {user_id}"
                continue
            body = str(durable[user_id]).encode()
            await asyncio.sleep(rng.choice((0, 0.001, 0.01)))
            if rng.random() < 0.9:  # the others gave up
                leave(node, user_id, body, b"", node.followees[user_id])

    async with Node([redis_url], record, prefix) as a, Node([redis_url], record, prefix) as b:
        for node in (a, b):
            node.followees.update(dict.fromkeys(USERS, native.pack_ids([100])))
        async with asyncio.TaskGroup() as group:
            readers = [group.create_task(read(node)) for node in (a, b) for _ in range(6)]
            await asyncio.gather(write(a), write(b))
            done = True
        assert all(reader.done() for reader in readers)
    assert served > 50


async def test_a_page_ages(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    record, prefix = Record(), fresh_prefix()
    async with Node([redis_url], record, prefix) as a:
        a.followees[7] = native.pack_ids([5])

        async def make() -> bytes | None:
            found = await body_at(a, 7)
            if found is None:
                leave(a, 7, b"body", b"", a.followees[7])
                await a.batcher.tell(b"x", "PING").reply()
            return found

        assert await make() is None
        assert await make() == b"body"
        now_ms = a.clock.now_ms
        ahead = PAGE_SOFT_AGE_MS + 1
        monkeypatch.setattr(type(a.clock), "now_ms", lambda _: now_ms() + ahead)
        # past its soft age one makes a fresh one, the others are served
        assert await body_at(a, 7) is None
        assert await body_at(a, 7) == b"body"
        monkeypatch.undo()
        now_ms = a.clock.now_ms
        monkeypatch.setattr(type(a.clock), "now_ms", lambda _: now_ms() + PAGE_AGE_MAX_MS + 1)
        assert await body_at(a, 7) is None


async def test_a_damaged_page_is_made_anew(redis_url: str) -> None:
    record, prefix = Record(), fresh_prefix()
    async with Node([redis_url], record, prefix) as a, Node([redis_url], record, prefix) as b:
        assert await body_at(a, 7) is None
        leave(a, 7, b"body", b"", native.pack_ids([5]))
        await a.batcher.tell(b"x", "PING").reply()
        assert await body_at(b, 7) == b"body"
        key = Keys(prefix).page(7, SHAPE)
        (data,) = await a.batcher.get_all([key])
        assert data is not None
        await a.batcher.tell(key, "SET", key, data[:-1]).reply()
        assert await body_at(b, 7) is None and await b.pages.stale_page(7, SHAPE) is None


async def test_a_stale_page_shows_nothing_that_had_to_go(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, prefix = Record(), fresh_prefix()
    writer = Writer(record)
    async with Node([redis_url], record, prefix) as a, Node([redis_url], record, prefix) as b:

        async def left_by_a(user_id: int) -> int:
            """A content id that the page shows."""
            shown = await writer.post(a, 5)
            assert await body_at(a, user_id) is None
            leave(a, user_id, b"body", native.pack_ids([shown]), native.pack_ids([5]))
            await a.batcher.tell(b"x", "PING").reply()
            assert await body_at(b, user_id) == b"body"
            return shown

        async def stale_at_b(user_id: int) -> bytes | None:
            found = await b.pages.stale_page(user_id, SHAPE)
            assert found is None or 0 < found.age_ms < PAGE_TTL_MS
            return found and found.page.body

        assert await stale_at_b(6) is None, "nobody has left one"
        await left_by_a(7)
        record.away = True
        newer = await writer.post(a, 5)
        assert await body_at(b, 7) is None and await stale_at_b(7) == b"body"
        await writer.delete(a, newer)
        assert await stale_at_b(7) == b"body", "it was not on the page"
        await a.replica.announce([7])
        assert await stale_at_b(7) is None, "the user has changed something"
        await writer.delete(a, await left_by_a(8))
        assert await stale_at_b(8) is None, "what it shows is gone"
        await left_by_a(9)
        now_ms = b.clock.now_ms
        ahead = PAGE_AGE_MAX_MS + 1
        monkeypatch.setattr(type(b.clock), "now_ms", lambda _: now_ms() + ahead)
        assert await body_at(b, 9) is None and await stale_at_b(9) == b"body"
        await writer.settings(a, "ranking", {"version": 2})  # b cannot read what they are now
        assert await stale_at_b(9) == b"body"
        ahead = PAGE_TTL_MS + 1
        assert await stale_at_b(9) is None


async def test_settings_that_cannot_be_read_hold_up_nobody(redis_url: str) -> None:
    record, prefix = Record(), fresh_prefix()
    writer, now_s = Writer(record), asyncio.get_running_loop().time
    async with Node([redis_url], record, prefix) as a, Node([redis_url], record, prefix) as b:

        async def left_by_b(user_id: int) -> bytes | None:
            assert await body_at(b, user_id) is None
            leave(b, user_id, b"body", b"", native.pack_ids([5]))
            await b.batcher.tell(b"x", "PING").reply()
            return await body_at(b, user_id)

        assert await left_by_b(7) == b"body"
        record.answers.clear()
        await writer.settings(a, "ranking", {"version": 2})
        begun_s = now_s()
        assert await body_at(b, 7) is None, "it may be ranked by what is over"
        assert now_s() - begun_s < 2 * RENEW_S
        begun_s = now_s()
        async with asyncio.TaskGroup() as group:
            for user_id in range(100, 150):
                group.create_task(b.validation.observe_viewer(user_id))
        assert now_s() - begun_s < RENEW_S / 2, "nobody waits a second time"
        assert await left_by_b(8) is None, "nor is it left to others"
        record.answers.set()
        async with asyncio.timeout(10):
            while b.state.is_behind:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert b.state.documents["ranking"]
        assert await left_by_b(9) == b"body"


async def test_without_redis_no_stale_page_is_vouched_for(own_redis: RedisServer) -> None:
    record, prefix = Record(), fresh_prefix()
    async with Node([own_redis.url], record, prefix, deadline_s=0.2) as a:
        assert await body_at(a, 7) is None
        leave(a, 7, b"body", b"", native.pack_ids([5]))
        await a.batcher.tell(b"x", "PING").reply()
        assert await a.pages.stale_page(7, SHAPE) is not None
        own_redis.pause()
        assert await a.pages.stale_page(7, SHAPE) is None
        own_redis.resume()


def _row(built: bool = True, until_ms: int = 0, entries: bytes = bytes(40)) -> ViewerRow:
    filters = ViewerFilters(*(bytes([n]) * 8 * n for n in range(1, 7)))
    return ViewerRow(native.pack_ids([3, 9]), filters, until_ms, built, entries, 17)


async def test_viewer_rows_go_between_nodes(redis_url: str) -> None:
    record, prefix = Record(), fresh_prefix()
    async with Node([redis_url], record, prefix) as a, Node([redis_url], record, prefix) as b:
        users = [7, 8, 9]
        for user_id in users:
            await a.validation.observe_viewer(user_id)
        assert await a.rows.viewer_rows(users, 500) == [None] * 3
        rows = [_row(), _row(built=False), _row(until_ms=1)]
        a.rows.keep_viewer_rows(users, rows, 500)
        await a.batcher.tell(b"x", "PING").reply()
        found = await b.rows.viewer_rows(users, 500)
        # a feed that is not built is nobody's, and a snooze is over
        assert found == [rows[0], None, None]
        await b.replica.announce([7])
        assert await a.rows.viewer_rows([7], 500) == [None]


async def test_a_row_that_was_loaded_less_deep_is_not_enough(redis_url: str) -> None:
    record, prefix = Record(), fresh_prefix()
    async with Node([redis_url], record, prefix) as a:
        await a.validation.observe_viewer(7)
        for entries, answers in ((bytes(20 * 10), [_NONE, 10, 5]), (bytes(20 * 9), [9, 9, 5])):
            await a.rows.viewer_rows([7], 1_000)
            a.rows.keep_viewer_rows([7], [_row(entries=entries)], 10)
            await a.batcher.tell(b"x", "PING").reply()
            for depth, count in zip((11, 10, 5), answers, strict=True):
                [row] = await a.rows.viewer_rows([7], depth)
                assert (len(row.entries) // 20 if row else _NONE) == count
                a.rows._loading.clear()


async def test_a_row_is_half_a_tail_old_at_most(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, prefix = Record(), fresh_prefix()
    async with Node([redis_url], record, prefix) as a:
        await a.validation.observe_viewer(7)
        await a.rows.viewer_rows([7], 500)
        a.rows.keep_viewer_rows([7], [_row()], 500)
        await a.batcher.tell(b"x", "PING").reply()
        assert await a.rows.viewer_rows([7], 500) == [_row()]
        now_ms = a.clock.now_ms
        ahead = ROW_AGE_MAX_MS + 1
        monkeypatch.setattr(type(a.clock), "now_ms", lambda _: now_ms() + ahead)
        assert await a.rows.viewer_rows([7], 500) == [None]


def test_bytes_that_are_not_whole_are_nothing() -> None:
    proof = codec.Proof(b"12345678", b"1234567812345678", 5 << 64 | 3, 1_234)
    made = SharedPage(b"body", native.pack_ids([3]))
    page = codec.KeptPage(proof, native.pack_ids([1, 2]), made)
    row = codec.KeptRow(proof, 500, _row())
    data, more = codec.pack_page(page), codec.pack_row(row)
    assert data is not None and more is not None
    assert codec.unpack_page(data) == page and codec.unpack_row(more) == row
    assert all(codec.unpack_page(data[:size]) is None for size in range(len(data)))
    assert codec.unpack_page(data + b"y") is None
    assert all(codec.unpack_row(more[:size]) is None for size in range(len(more)))
    assert codec.unpack_page(b"\x01" + data[1:]) is None
    large = page._replace(followees=bytes(codec.PAGE_FOLLOWEES_BYTES_MAX + 8))
    assert codec.pack_page(large) is None


_NONE = -1
