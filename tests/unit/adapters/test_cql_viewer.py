"""Rows of the viewer partition, decoded, against the plain way; columns as id arrays."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from feedcore import native
from feedcore.adapters.cql.driver.ids import id_array
from feedcore.adapters.cql.stores.viewer_partition import Kind, decode, set_at_of, set_at_value

ID = st.one_of(st.integers(1, 12), st.integers(1, 2**63 - 1))
NOW_MS = 1_000
ROW = st.tuples(
    st.sampled_from([kind for kind in Kind if kind != Kind.FOLLOWEE]),
    ID,
    st.one_of(st.none(), st.integers(0, 2 * NOW_MS)),
    st.one_of(st.none(), st.binary(max_size=24)),
)


@given(st.lists(ROW, max_size=40))
def test_decoded_is_what_a_look_at_each_row_gives(rows: list[tuple]) -> None:
    stored = {(int(kind), target): (extra, value) for kind, target, extra, value in rows}
    ordered = [(*key, *stored[key]) for key in sorted(stored)]
    found = decode(ordered, NOW_MS)

    def ids_of(*kinds: Kind) -> bytes:
        return native.pack_ids(target for kind, target in stored if kind in kinds)

    snoozes = {
        target: extra
        for (kind, target), (extra, _) in stored.items()
        if kind == Kind.SNOOZE and (extra or 0) > NOW_MS
    }
    affinity = [value or b"" for kind, _, _, value in ordered if kind == Kind.AFFINITY]
    assert found.filters.muted == ids_of(Kind.MUTE)
    assert found.filters.snoozed == native.pack_ids(snoozes)
    assert found.filters.see_less == ids_of(Kind.SEE_LESS)
    assert found.filters.hidden == ids_of(Kind.HIDE)
    assert found.filters.blocked == ids_of(Kind.BLOCKS, Kind.BLOCKED_BY)
    assert found.filters.affinity == (affinity[-1] if affinity else b"")
    assert found.snoozed_until_ms == min(snoozes.values(), default=0)
    assert native.pack_ids(found.pending) == ids_of(Kind.BACKFILL)
    assert found.away == any(kind in (Kind.INACTIVE, Kind.REBUILDING) for kind, _ in stored)


@given(st.sets(ID, max_size=30))
def test_a_column_is_an_id_array(ids: set[int]) -> None:
    column = struct.pack(f">{len(ids)}q", *sorted(ids))
    assert id_array(column) == native.pack_ids(ids)


def test_when_it_was_set_comes_back() -> None:
    for at_ms in (0, 1, 1_750_000_000_000, 2**63 - 1):
        assert set_at_of(set_at_value(at_ms)) == at_ms
    assert set_at_of(None) == 0
