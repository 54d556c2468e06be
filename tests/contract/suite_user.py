"""Contract of ports.PreferenceStore, ports.SignalStore and ports.SettingsStore."""

from __future__ import annotations

import math
import struct

import pytest

from feedcore import native
from feedcore.domain import entry
from feedcore.domain.policy import Mode
from feedcore.errors import FailedPrecondition, NotFound
from feedcore.limits import PUSH_THRESHOLD_MAX
from feedcore.ports import ImportedCounts, Interaction, InteractionKind, Preference, PreferenceKind
from feedcore.ports.settings import AuthorMode
from tests.contract.engine import Engine, entry_of, post, timeline_of

MUTE, SNOOZE, HIDE = PreferenceKind.MUTE, PreferenceKind.SNOOZE, PreferenceKind.HIDE
LIKE = InteractionKind.LIKE


class PreferenceContract:
    """Read your writes, ends of snoozes."""

    async def test_set_is_seen_at_once_and_cleared_at_once(self, engine: Engine) -> None:
        ports, now = engine.store, engine.clock.now_ms()
        for kind, name in (
            (MUTE, "muted"),
            (PreferenceKind.SEE_LESS, "see_less"),
            (HIDE, "hidden"),
        ):
            assert await ports.preferences.put(1, Preference(kind, 9, 0, now))
            assert not await ports.preferences.put(1, Preference(kind, 9, 0, now + 5))
            filters = await engine.other.preferences.filters(1, now)
            assert native.unpack_ids(getattr(filters, name)) == [9]
            assert [one.kind for one in await engine.other.preferences.all_of(1, now)] == [kind]
            assert await ports.preferences.clear(1, kind, 9)
            assert not await ports.preferences.clear(1, kind, 9)
            assert getattr(await engine.other.preferences.filters(1, now), name) == b""
        assert (await engine.other.preferences.filters(2, now)).muted == b""

    async def test_a_snooze_ends(self, engine: Engine) -> None:
        ports, now = engine.store, engine.clock.now_ms()
        assert await ports.preferences.put(1, Preference(SNOOZE, 9, now + 100, now))
        assert not await ports.preferences.put(1, Preference(SNOOZE, 9, now + 100, now))
        assert await ports.preferences.put(1, Preference(SNOOZE, 9, now + 200, now))
        assert native.unpack_ids((await ports.preferences.filters(1, now + 199)).snoozed) == [9]
        assert (await ports.preferences.filters(1, now + 200)).snoozed == b""
        assert await ports.preferences.all_of(1, now + 200) == []

    async def test_the_list_is_newest_first_then_by_kind_and_target(self, engine: Engine) -> None:
        ports, now = engine.store, engine.clock.now_ms()
        wanted = [
            Preference(HIDE, 3, 0, now + 2),
            Preference(MUTE, 9, 0, now + 1),
            Preference(MUTE, 12, 0, now + 1),
            Preference(SNOOZE, 2, now + 100, now + 1),
        ]
        for one in (wanted[2], wanted[3], wanted[0], wanted[1]):
            await ports.preferences.put(1, one)
        assert await engine.other.preferences.all_of(1, now) == wanted

    async def test_filter_sets_are_ascending(self, engine: Engine) -> None:
        now = engine.clock.now_ms()
        targets = [2**63 - 1, 5, 2**53 + 1, 3]
        rows = [(1, Preference(MUTE, target, 0, now)) for target in targets]
        assert await engine.store.preferences.import_preferences(rows) == 4
        assert await engine.store.preferences.import_preferences(rows) == 0
        muted = (await engine.other.preferences.filters(1, now)).muted
        assert native.unpack_ids(muted) == sorted(targets)


class SignalContract:
    """Exactly once, whatever is repeated."""

    async def test_counted_once(self, engine: Engine) -> None:
        ports, now = engine.store, engine.clock.now_ms()
        made = await ports.posts.publish(post(engine.clock, 9))
        like = Interaction(1, made.content_id, LIKE, True, now)
        assert await ports.signals.record(like)
        assert not await engine.other.signals.record(like)
        assert await ports.signals.record(like._replace(kind=InteractionKind.COMMENT))
        while await ports.signals.apply_counters(1, now):
            pass
        stats = await engine.other.posts.stats(made.content_id)
        assert stats is not None
        assert (stats.likes, stats.comments) == (1, 1)
        await engine.other.validation.observe_viewer(1)
        (value,) = struct.unpack(
            "<f", engine.other.signals.engagement(entry_of(made.content_id, 9))
        )
        assert value == pytest.approx(math.log(1 + 1 + 2))
        affinity = (await engine.other.preferences.filters(1, now)).affinity
        assert struct.unpack("<Qf", affinity) == (9, 1.0)
        assert await ports.signals.record(like._replace(on=False))
        assert not await ports.signals.record(like._replace(on=False))
        assert await ports.signals.apply_counters(100, now) == 1
        (content,) = await engine.other.contents.contents([made.content_id])
        assert content is not None
        assert (content.likes, content.comments) == (0, 1)

    async def test_a_used_key_answers_as_the_first_time(self, engine: Engine) -> None:
        ports, now = engine.store, engine.clock.now_ms()
        made = await ports.posts.publish(post(engine.clock, 9))
        keyed = Interaction(1, made.content_id, LIKE, True, now, "key")
        assert await ports.signals.record(keyed)
        assert await ports.signals.record(keyed._replace(on=False))
        await ports.signals.apply_counters(100, now)
        assert (await ports.posts.stats(made.content_id)).likes == 1  # type: ignore[union-attr]

    async def test_hide_hides(self, engine: Engine) -> None:
        ports, now = engine.store, engine.clock.now_ms()
        made = await ports.posts.publish(post(engine.clock, 9))
        hide = Interaction(1, made.content_id, InteractionKind.HIDE, True, now)
        assert await ports.signals.record(hide)
        hidden = (await engine.other.preferences.filters(1, now)).hidden
        assert native.unpack_ids(hidden) == [made.content_id]
        assert await ports.signals.record(hide._replace(on=False))
        assert (await engine.other.preferences.filters(1, now)).hidden == b""

    async def test_an_unknown_post_is_refused(self, engine: Engine) -> None:
        with pytest.raises(NotFound, match="content_id"):
            await engine.store.signals.record(Interaction(1, 77, LIKE, True, 0))
        assert (
            await engine.store.signals.import_interactions([Interaction(1, 77, LIKE, True, 0)]) == 0
        )

    async def test_imported_counts_can_be_set_again(self, engine: Engine) -> None:
        ports, now = engine.store, engine.clock.now_ms()
        made = await ports.posts.publish(post(engine.clock, 9))
        await ports.signals.record(Interaction(1, made.content_id, LIKE, True, now))
        await ports.signals.apply_counters(10, now)
        for _ in range(2):
            await ports.signals.import_counts([ImportedCounts(made.content_id, 10, 4, 2)])
        stats = await ports.posts.stats(made.content_id)
        assert stats is not None
        assert (stats.likes, stats.comments, stats.shares) == (11, 4, 2)

    async def test_trending_is_by_decayed_engagement_and_public_only(self, engine: Engine) -> None:
        ports, now = engine.store, engine.clock.now_ms()
        hour = 3_600_000
        old = await ports.posts.publish(post(engine.clock, 9, age_ms=40 * hour))
        new = await ports.posts.publish(post(engine.clock, 9))
        hidden = await ports.posts.publish(post(engine.clock, 9, seq=3, visibility=1))
        counts = [ImportedCounts(one.content_id, 5, 0, 0) for one in (old, new, hidden)]
        await ports.signals.import_counts(counts)
        await ports.signals.refresh_trending(now)
        await engine.other.validation.observe_node()
        found = entry.content_ids(engine.other.posts.trending())
        assert found == [new.content_id, old.content_id]
        assert await timeline_of(engine.other, 9) != b""

    async def test_trending_fills_up_with_new_public_posts_of_its_window(
        self, engine: Engine
    ) -> None:
        ports, hour = engine.store, 3_600_000
        await ports.posts.publish(post(engine.clock, 9, age_ms=49 * hour))
        late = await ports.posts.publish(post(engine.clock, 9, age_ms=47 * hour))
        await ports.posts.publish(post(engine.clock, 9, seq=3, visibility=1))
        await ports.signals.refresh_trending(engine.clock.now_ms())
        await engine.other.validation.observe_node()
        assert entry.content_ids(engine.other.posts.trending()) == [late.content_id]


class SettingsContract:
    """Versions, seen by all at once."""

    async def test_versions_count_up_and_old_ones_stay(self, engine: Engine) -> None:
        settings, now = engine.store.settings, engine.clock.now_ms()
        assert (settings.get("x"), settings.version("x")) == (None, 0)
        assert await settings.put("x", {"a": 1}, now) == 1
        assert await settings.put("x", {"a": 2}, now, expected_version=1) == 2
        with pytest.raises(FailedPrecondition, match="expected_version"):
            await settings.put("x", {"a": 3}, now, expected_version=1)
        await engine.other.validation.observe_node()
        other = engine.other.settings
        assert (other.get("x"), other.version("x")) == ({"a": 2}, 2)
        assert other.at_version("x", 1) == {"a": 1}
        assert other.at_version("x", 3) is None

    async def test_modes_and_who_is_to_be_reviewed(self, engine: Engine) -> None:
        ports, now = engine.store, engine.clock.now_ms()
        for user in range(1, 6):
            await ports.graph.follow(user, 100, now)
        await ports.graph.follow(1, 101, now)
        review = engine.other.settings.authors_to_review
        assert await review(PUSH_THRESHOLD_MAX, PUSH_THRESHOLD_MAX - 1, now, 10) == []
        assert [one.author_id for one in await review(5, 4, now, 10)] == [100]
        await ports.settings.set_author_modes([AuthorMode(100, int(Mode.PULL), 5, 0)])
        assert await review(5, 4, now, 10) == []
        follows = (await engine.other.graph.followees(1)).ids
        await engine.other.validation.observe_viewer(1)
        assert engine.other.feeds.pulled_authors(1, follows) == [100]
        assert [one.author_id for one in await review(7, 6, now, 10)] == [100]
        draining = AuthorMode(100, int(Mode.DRAINING), 5, now + 50)
        await ports.settings.set_author_modes([draining])
        assert await engine.other.settings.author_mode(100) == draining
        await engine.other.validation.observe_viewer(1)
        assert engine.other.feeds.pulled_authors(1, follows) == [100]
        assert await review(7, 6, now, 10) == []
        assert await review(7, 6, now + 50, 10) == [draining]
        await ports.settings.set_author_modes([AuthorMode(100, int(Mode.PUSH), 5, 0)])
        await engine.other.validation.observe_viewer(1)
        assert engine.other.feeds.pulled_authors(1, follows) == []
