"""Contract of ports.CacheValidation: after `observe_viewer` whatever a node has kept of the user is
current, or its epochs say that it is not; after `observe_node` so is what is the same for all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from feedcore import native
from feedcore.codecs.epochs import AUTHOR, CONTENT, FEED, VIEWER
from feedcore.domain import ids
from feedcore.ports import Delivery, Interaction, InteractionKind, Preference, PreferenceKind
from tests.contract.engine import WholeEngine, WholePorts, entry_of, post

USER, OTHER, AUTHOR_ID = 1, 2, 9
CHANGES: dict[str, Callable[[WholePorts, int], Awaitable[object]]] = {
    "follow": lambda ports, now: ports.graph.follow(USER, AUTHOR_ID, now),
    "block": lambda ports, now: ports.graph.block(USER, AUTHOR_ID, now),
    "blocked": lambda ports, now: ports.graph.block(AUTHOR_ID, USER, now),
    "mute": lambda ports, now: ports.preferences.put(
        USER, Preference(PreferenceKind.MUTE, AUTHOR_ID, 0, now)
    ),
    "removal": lambda ports, now: ports.feeds.deliver(
        [Delivery(b"", native.pack_ids([USER]), remove_author=AUTHOR_ID)]
    ),
    "rebuild": lambda ports, now: ports.feeds.request_rebuild(USER, now),
}


class CacheValidationContract:
    """What one opening acknowledges, the other observes."""

    @pytest.mark.parametrize("change", CHANGES)
    async def test_a_change_of_the_viewer_is_observed(
        self, engine: WholeEngine, change: str
    ) -> None:
        now = engine.clock.now_ms()
        made = entry_of(ids.make(now, 0, 0, 1), AUTHOR_ID)
        await engine.store.feeds.deliver([Delivery(made, native.pack_ids([USER]))])
        await engine.settle()
        before = []
        for ports in (engine.store, engine.other):
            await ports.validation.observe_viewer(USER)
            before.append(ports.epochs.read(VIEWER, USER))
        await CHANGES[change](engine.store, now)
        await engine.settle()
        for ports, epoch in zip((engine.store, engine.other), before, strict=True):
            await ports.validation.observe_viewer(USER)
            assert ports.epochs.read(VIEWER, USER) != epoch

    async def test_nothing_is_invalidated_where_nothing_changed(self, engine: WholeEngine) -> None:
        validation, epochs = engine.other.validation, engine.other.epochs
        await validation.observe_viewer(USER)
        await validation.observe_viewer(OTHER)
        before = [epochs.read(VIEWER, user) for user in (USER, OTHER)]
        await engine.store.graph.follow(OTHER, AUTHOR_ID, engine.clock.now_ms())
        for user in (USER, OTHER):
            await validation.observe_viewer(user)
        assert epochs.read(VIEWER, USER) == before[0]
        assert epochs.read(VIEWER, OTHER) != before[1]

    async def test_a_post_is_observed_by_its_authors_readers(self, engine: WholeEngine) -> None:
        validation, epochs = engine.other.validation, engine.other.epochs
        await validation.observe_node()
        before = [epochs.read(kind, AUTHOR_ID) for kind in (AUTHOR, FEED)]
        await engine.store.posts.publish(post(engine.clock, AUTHOR_ID))
        await validation.observe_node()
        assert epochs.read(AUTHOR, AUTHOR_ID) != before[0]
        assert epochs.read(FEED, AUTHOR_ID) != before[1]

    async def test_a_deletion_is_observed(self, engine: WholeEngine) -> None:
        ports = engine.store
        made = await ports.posts.publish(post(engine.clock, AUTHOR_ID))
        await engine.other.validation.observe_node()
        before = engine.other.epochs.read(CONTENT, made.content_id)
        await ports.posts.delete(AUTHOR_ID, made.content_id, engine.clock.now_ms())
        await engine.other.validation.observe_node()
        assert engine.other.epochs.read(CONTENT, made.content_id) != before

    async def test_counts_that_changed_are_observed(self, engine: WholeEngine) -> None:
        ports, now = engine.store, engine.clock.now_ms()
        made = await ports.posts.publish(post(engine.clock, AUTHOR_ID))
        await engine.other.validation.observe_node()
        before = engine.other.epochs.read(CONTENT, made.content_id)
        like = Interaction(USER, made.content_id, InteractionKind.LIKE, True, now)
        await ports.signals.record(like)
        while await ports.signals.apply_counters(100, now):
            pass
        await engine.other.validation.observe_node()
        assert engine.other.epochs.read(CONTENT, made.content_id) != before
        (content,) = await engine.other.contents.contents([made.content_id])
        assert content is not None and content.likes == 1

    async def test_a_crowd_of_one_turn_is_answered_like_one(self, engine: WholeEngine) -> None:
        users = range(10, 60)
        await asyncio.gather(*map(engine.other.validation.observe_viewer, users))
        before = [engine.other.epochs.read(VIEWER, user) for user in users]
        for user in users:
            await engine.store.graph.follow(user, AUTHOR_ID, engine.clock.now_ms())
        await asyncio.gather(*map(engine.other.validation.observe_viewer, users))
        after = [engine.other.epochs.read(VIEWER, user) for user in users]
        assert all(one != another for one, another in zip(before, after, strict=True))

    async def test_nothing_is_bypassed_while_everything_answers(self, engine: WholeEngine) -> None:
        await engine.other.validation.observe_viewer(USER)
        assert not engine.other.validation.is_bypassed(USER)
