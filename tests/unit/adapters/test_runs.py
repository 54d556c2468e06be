"""Runs and the engagement table: compiled against twin, twin against the plain definition."""

from __future__ import annotations

import random
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedcore import native
from feedcore.codecs import engagement, runs
from feedcore.domain import entry, ids, merge
from feedcore.limits import DAY_MS

START = ids.make(1_750_000_000_000, 0, 0, 0)
USERS = st.one_of(st.integers(1, 8), st.sampled_from([2**40, 2**63 - 1, 2**63, 2**64 - 1]))
# a few ids over three days, so that days split and entries meet again
CONTENT = st.integers(0, 11).map(lambda n: ids.make(1_750_000_000_000 + n * DAY_MS // 4, 0, 0, n))


@st.composite
def rows(draw: st.DrawFn) -> list[tuple[bytes, bytes]]:
    """Deliveries; the author follows from the content, as in the store."""
    found = []
    for _ in range(draw(st.integers(0, 8))):
        contents = sorted(draw(st.sets(CONTENT, min_size=1, max_size=4)), reverse=True)
        entries = b"".join(entry.pack(one, one % 7 + 1) for one in contents)
        found.append((entries, native.pack_ids(draw(st.sets(USERS, max_size=5)))))
    return found


def plain(deliveries: list[tuple[bytes, bytes]]) -> dict[int, dict[int, list[int]]]:
    """day -> user -> content ids, newest first."""
    found: dict[int, dict[int, set[int]]] = {}
    for entries, recipients in deliveries:
        for content_id in entry.content_ids(entries):
            for user in native.unpack_ids(recipients):
                found.setdefault(ids.day(content_id), {}).setdefault(user, set()).add(content_id)
    return {
        day: {user: sorted(feed, reverse=True) for user, feed in users.items()}
        for day, users in found.items()
    }


def unpack(users: bytes, offsets: bytes, entries: bytes) -> dict[int, list[int]]:
    """user -> content ids of a run."""
    places = memoryview(offsets).cast("I")
    return {
        user: entry.content_ids(entries[20 * places[at] : 20 * places[at + 1]])
        for at, user in enumerate(memoryview(users).cast("Q"))
    }


@given(rows())
def test_built_runs_hold_exactly_the_deliveries(deliveries: list[tuple[bytes, bytes]]) -> None:
    built = {day: unpack(*run) for day, *run in native.build_runs(deliveries) if run[0]}
    assert built == plain(deliveries)
    assert [x for x in native.build_runs(deliveries) if x[1]] == [
        x for x in runs.build_runs(deliveries) if x[1]
    ]


@given(st.lists(rows(), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_merged_runs_hold_what_is_not_removed(
    batches: list[list[tuple[bytes, bytes]]], chance: random.Random
) -> None:
    by_day: dict[int, list[runs.Run]] = {}
    for batch in batches:
        for day, users, offsets, entries in native.build_runs(batch):
            marked = bytearray(entries)
            for at in range(runs.REMOVED_BYTE, len(marked), 20):
                if chance.random() < 0.3:
                    marked[at] |= runs.REMOVED_BIT
            by_day.setdefault(day, []).append((users, offsets, bytes(marked)))
    for parts in by_day.values():
        expected: dict[int, set[int]] = {}
        for users, offsets, entries in parts:
            places = memoryview(offsets).cast("I")
            for at, user in enumerate(memoryview(users).cast("Q")):
                feed = runs.live_entries(entries[20 * places[at] : 20 * places[at + 1]])
                if feed:
                    expected.setdefault(user, set()).update(entry.content_ids(feed))
        answers = []
        for merge_runs in (native.merge_runs, runs.merge_runs):
            pieces: list[bytes] = []
            users, offsets = merge_runs(parts, pieces.append)
            answers.append((users, offsets, b"".join(pieces)))
        assert answers[0] == answers[1]
        wanted = {user: sorted(feed, reverse=True) for user, feed in expected.items()}
        assert unpack(*answers[0]) == wanted


def test_where_a_page_begins() -> None:
    entries = b"".join(entry.pack(one, 1) for one in (50, 40, 30))
    bounds = map(entry.order_key, (60, 50, 45, 40, 30, 29))
    found = [merge.start_of(entries, bound) // entry.ENTRY_BYTES for bound in bounds]
    assert found == [0, 0, 1, 1, 2, 3]


@pytest.mark.parametrize("sets", [1, 8, 64])
def test_engagement_table_holds_the_newest_and_twins_agree(sets: int) -> None:
    chance = random.Random(sets)
    compiled, twin = (bytearray(sets * engagement.SET_BYTES) for _ in range(2))
    one, two = memoryview(compiled), memoryview(twin)
    made = [ids.make(1_750_000_000_000 + chance.randrange(10**9), 0, 0, n) for n in range(300)]
    for content_id in made:
        value = chance.random() * 9
        answers = {
            native.engagement_store(one, content_id, value),
            engagement.engagement_store(two, content_id, value),
        }
        assert len(answers) == 1
    assert compiled == twin
    entries = b"".join(entry.pack(content_id, 1) for content_id in made)
    assert native.engagement_lookup(one, entries) == engagement.engagement_lookup(two, entries)
    newest = max(made)
    native.engagement_store(one, newest, 1.5)
    assert struct.unpack("<f", native.engagement_lookup(one, entry.pack(newest, 1))) == (1.5,)
    assert native.engagement_lookup(one, entry.pack(START, 1)) == b"\0\0\0\0"


@given(rows(), st.data())
def test_sums_are_those_of_the_twin_and_tell_of_any_flip(
    deliveries: list[tuple[bytes, bytes]], data: st.DataObject
) -> None:
    for _, users, offsets, entries in native.build_runs(deliveries):
        sums = native.run_sums(users, offsets, entries)
        assert sums == runs.run_sums(users, offsets, entries)
        assert native.run_blocks(users) == runs.run_blocks(users)
        if not users:
            continue
        at = data.draw(st.integers(0, len(entries) * 8 - 1))
        flipped = bytearray(entries)
        flipped[at // 8] ^= 1 << at % 8
        removed = at // 8 % 20 == runs.REMOVED_BYTE and at % 8 == 7
        assert (native.run_sums(users, offsets, bytes(flipped)) == sums) == removed
        at = data.draw(st.integers(0, len(users) * 8 - 1))
        flipped = bytearray(users)
        flipped[at // 8] ^= 1 << at % 8
        assert native.run_blocks(bytes(flipped)) != native.run_blocks(users)


@pytest.mark.parametrize("offsets", [(0, 9), (2, 1), (2**32 - 1, 2**32 - 1)])
@pytest.mark.parametrize("module", [native, runs])
def test_offsets_that_point_outside_are_refused(module: Any, offsets: tuple[int, int]) -> None:
    users, entries = struct.pack("<Q", 7), entry.pack(START, 1) * 3
    run = users, struct.pack("<2I", *offsets), entries
    for use in (lambda: module.run_sums(*run), lambda: module.merge_runs([run], [].append)):
        with pytest.raises(ValueError, match="outside"):
            use()
    views = [memoryview(part) for part in run]
    view = runs.RunView(3, ids.day(START), views[0].cast("Q"), views[1].cast("I"), views[2], False)
    index = module.RunIndex([view])
    assert index.since(7, 0) == [] and index.met_run == 3
    index = module.RunIndex([view])
    assert index.window(7, 0, 2**40, ids.ID_MAX, 10) == [] and index.met_run == 3


def test_deliveries_of_broken_parts_are_refused() -> None:
    for row in ((b"x" * 19, b"y" * 8), (b"x" * 20, b"y" * 9)):
        for module in (native, runs):
            with pytest.raises(ValueError, match="delivery"):
                module.build_runs([row])


def test_a_value_without_its_check_counts_for_nothing() -> None:
    table = memoryview(bytearray(engagement.SET_BYTES * 4))
    post = entry.pack(START, 1)
    for module in (native, engagement):
        module.engagement_store(table, START, 0.5)
        (at,) = [at for at in range(0, len(table), 16) if table[at : at + 8] != bytes(8)]
        assert module.engagement_lookup(table, post) == struct.pack("<f", 0.5)
        assert module.engagement_damaged(table) == 0
        for bit in range(64):
            table[at + 8 + bit // 8] ^= 1 << bit % 8
            for other in (native, engagement):
                assert other.engagement_lookup(table, post) == bytes(4)
                assert other.engagement_damaged(table) == 1
            table[at + 8 + bit // 8] ^= 1 << bit % 8
