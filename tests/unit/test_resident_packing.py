"""Packed windows and followees come back as they were, and are as small as they should be."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedcore.codecs import runs
from feedcore.domain import entry, ids, idset, merge

resident = pytest.importorskip(
    "feedcore._native.feed.resident", reason="compiled modules are not built"
)

USER = st.integers(1, 2**63 - 1) | st.integers(1, 300)
ENTRY = st.builds(
    entry.pack,
    st.integers(0, ids.ID_MAX) | st.integers(0, 40),
    USER,
    st.floats(0, 70),
    st.integers(0, 0xFFFF),
)
ENTRIES = st.lists(ENTRY, max_size=40).map(lambda rows: merge.sort_entries(b"".join(rows)))


@given(st.lists(USER, max_size=40).map(idset.pack_ids), ENTRIES)
def test_what_is_packed_comes_back(followees: bytes, entries: bytes) -> None:
    _, _, again, window = resident.packed_and_back(followees, entries)
    assert again == followees and window == entries


@given(ENTRIES)
def test_authors_that_are_followed_take_fewer_bytes(entries: bytes) -> None:
    followees = idset.pack_ids([row.author_id for row in entry.unpack(entries)])
    _, alone, _, _ = resident.packed_and_back(b"", entries)
    _, packed, _, window = resident.packed_and_back(followees, entries)
    assert window == entries and len(packed) <= len(alone)


def test_a_full_window_of_an_ordinary_user_is_below_5_kb() -> None:
    draw = random.Random(1)
    followees = idset.pack_ids(draw.sample(range(1, 1_000_000), 500))
    authors = idset.unpack_ids(followees)
    now_ms = ids.EPOCH_MS + 86_400_000 * 365
    posts = [
        entry.pack(
            ids.make(now_ms - draw.randrange(6 * 86_400_000), 0, draw.randrange(8), 0),
            draw.choice(authors),
        )
        for _ in range(500)
    ]
    ids_packed, packed, _, _ = resident.packed_and_back(
        followees, merge.sort_entries(b"".join(posts))
    )
    assert len(packed) < 4_000 and len(ids_packed) < 1_100


RUN_ENTRIES = st.lists(
    st.builds(entry.pack, st.integers(1, 60).map(lambda n: n << 40), st.integers(1, 5)), max_size=6
).map(lambda rows: merge.sort_entries(b"".join(rows)))


@given(
    st.lists(
        st.tuples(
            st.integers(0, 3),
            st.dictionaries(st.integers(1, 6), RUN_ENTRIES, max_size=4),
            st.booleans(),
        ),
        max_size=5,
    ),
    st.integers(0, 7),
    st.integers(0, 70 << 40),
    st.integers(1, 9),
    st.integers(0, 5),
)
def test_the_run_index_and_its_twin_find_the_same(
    made: list, user: int, at_or_below: int, limit: int, seen: int
) -> None:
    from feedcore._native.store.runlookup import RunIndex

    views = []
    for number, (day, feeds, removed) in enumerate(made, 1):
        users, offsets, entries = [], [0], b""
        for one in sorted(feeds):
            if feeds[one]:
                mine = bytearray(feeds[one])
                if removed:
                    mine[runs.REMOVED_BYTE] |= runs.REMOVED_BIT
                users.append(one)
                entries += bytes(mine)
                offsets.append(len(entries) // entry.ENTRY_BYTES)
        views.append(
            runs.RunView(
                number,
                day,
                memoryview(idset.pack_ids(users)).cast("Q"),
                memoryview(b"".join(n.to_bytes(4, "little") for n in offsets)).cast("I"),
                memoryview(entries),
                removed,
            )
        )
    ours, twin = RunIndex(views), runs.RunIndex(views)
    assert ours.newest_run == twin.newest_run
    assert ours.since(user, seen) == twin.since(user, seen)
    for last_day in (1, 3):
        asked = (user, 0, last_day, at_or_below, limit)
        assert ours.window(*asked) == twin.window(*asked)
