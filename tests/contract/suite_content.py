"""Contract of ports.ContentSource. `engine.store` publishes; `engine.other` is asked."""

from __future__ import annotations

from feedcore.ports import ImportedCounts
from feedcore_pb.v1 import types_pb2
from tests.contract.engine import Engine, post

MANY = 1_203  # more than any adapter asks its store for at once


async def bodies(engine: Engine, asked: list[int]) -> list[str | None]:
    """What each content says, as everybody reads it from the wire."""
    await engine.other.validation.observe_node()
    found = await engine.other.contents.contents(asked)
    return [one and types_pb2.Content.FromString(one.content).body for one in found]


class ContentContract:
    """One answer an id, in the order asked for."""

    async def test_contents_come_in_the_order_asked_for(self, engine: Engine) -> None:
        made = [post(engine.clock, 9, seq=seq, body=b"%d" % seq) for seq in range(3)]
        for one in made:
            await engine.store.posts.publish(one)
        asked = [made[2].content_id, 12_345, made[0].content_id, made[2].content_id]
        assert await bodies(engine, asked) == ["2", None, "0", "2"]

    async def test_nothing_asked_for_is_nothing(self, engine: Engine) -> None:
        assert await engine.other.contents.contents([]) == []

    async def test_more_than_one_batch_keeps_its_order(self, engine: Engine) -> None:
        made = await engine.store.posts.publish(post(engine.clock, 9, body=b"one"))
        asked = [made.content_id if at % 400 == 0 else at for at in range(1, MANY)]
        assert await bodies(engine, asked) == [
            "one" if at % 400 == 0 else None for at in range(1, MANY)
        ]

    async def test_deleted_is_gone_at_once(self, engine: Engine) -> None:
        one, two = [
            await engine.store.posts.publish(post(engine.clock, 9, seq=seq, body=b"%d" % seq))
            for seq in range(2)
        ]
        assert await bodies(engine, [one.content_id, two.content_id]) == ["0", "1"]
        await engine.store.posts.delete(9, one.content_id, engine.clock.now_ms())
        assert await bodies(engine, [one.content_id, two.content_id]) == [None, "1"]

    async def test_whoever_may_see_it_is_not_asked_here(self, engine: Engine) -> None:
        made = [
            await engine.store.posts.publish(post(engine.clock, 9, seq=at, visibility=at))
            for at in range(3)
        ]
        assert await bodies(engine, [one.content_id for one in made]) == ["hi"] * 3

    async def test_counts_come_with_the_content(self, engine: Engine) -> None:
        made = await engine.store.posts.publish(post(engine.clock, 9))
        await engine.store.signals.import_counts([ImportedCounts(made.content_id, 5, 3, 2)])
        (found,) = await engine.other.contents.contents([made.content_id])
        assert found is not None
        assert (found.likes, found.comments, found.shares) == (5, 3, 2)
