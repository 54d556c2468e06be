"""Compiled modules and Python twins give identical results on random input, bit for bit."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feedcore.codecs import wire
from feedcore.codecs.wire import PageItem
from feedcore.domain import entry, ids, idset, merge, paging, ranking, visibility
from feedcore.domain.ranking import RankingParameters
from feedcore.domain.visibility import Audience

compiled = pytest.importorskip(
    "feedcore._native.codecs.idset", reason="compiled modules are not built"
)

from feedcore._native.algorithms import merge as c_merge  # noqa: E402
from feedcore._native.algorithms import paging as c_paging  # noqa: E402
from feedcore._native.algorithms import ranking as c_ranking  # noqa: E402
from feedcore._native.algorithms import visibility as c_visibility  # noqa: E402
from feedcore._native.codecs import wire as c_wire  # noqa: E402

U64 = st.integers(0, 2**64 - 1)
SMALL = st.integers(0, 12)
ANY_ID = SMALL | U64
CONTENT_ID = SMALL | st.integers(0, ids.ID_MAX)
ID_ARRAY = st.lists(ANY_ID, max_size=12).map(idset.pack_ids)
PACKED = st.builds(entry.pack, CONTENT_ID, ANY_ID, st.floats(0, 70), st.integers(0, 0xFFFF))
UNSORTED = st.lists(PACKED, max_size=20).map(b"".join)
ENTRIES = UNSORTED.map(merge.sort_entries)
PARAMETERS = st.builds(
    RankingParameters,
    **{name: st.floats(low, high) for name, (low, high) in ranking.BOUNDS.items()},
)
NOW_MS = st.integers(0, ids.TIME_MAX_MS)


@given(st.lists(st.tuples(st.sampled_from(["add", "discard", "update"]), ANY_ID), max_size=200))
def test_u64_set_is_a_set(steps: list[tuple[str, int]]) -> None:
    ours, twin, model = compiled.U64Set(), idset.U64Set(), set()
    for verb, value in steps:
        for one in (ours, twin):
            getattr(one, verb)([value, value // 2] if verb == "update" else value)
        getattr(model, verb)([value, value // 2] if verb == "update" else value)
        assert (value in ours) == (value in twin) == (value in model)
        assert len(ours) == len(twin) == len(model)
    assert set(ours) == set(twin) == model
    assert all(value in ours for value in model)
    ours.clear()
    assert len(ours) == 0 and list(ours) == [] and 1 not in ours


@given(st.lists(st.integers(1, 40).map(lambda n: n << 58), max_size=300))
def test_u64_set_removes_from_long_clusters(values: list[int]) -> None:
    ours, model = compiled.U64Set(), set()
    for value in values:
        (ours.discard if value in model else ours.add)(value)
        model.symmetric_difference_update({value})
        assert set(ours) == model
        assert all(one in ours for one in model)


@pytest.mark.parametrize("module", [compiled, idset])
@pytest.mark.parametrize("bad", [-1, 2**64])
def test_ids_out_of_range_are_refused(module: object, bad: int) -> None:
    s = module.U64Set()
    for act in (s.add, s.discard, s.__contains__, lambda v: module.pack_ids([v])):
        with pytest.raises(OverflowError):
            act(bad)


@pytest.mark.parametrize("module", [compiled, idset])
def test_broken_arrays_are_refused(module: object) -> None:
    for act in (
        module.unpack_ids,
        module.U64Set,
        lambda b: module.ids_contain(b, 1),
        lambda b: module.ids_insert(b, 1),
        lambda b: module.ids_remove(b, 1),
        lambda b: module.ids_union(b, b""),
        lambda b: module.ids_intersect(b, module.U64Set()),
    ):
        with pytest.raises(ValueError, match="7 bytes"):
            act(b"1234567")


@given(st.lists(ANY_ID, max_size=40), ID_ARRAY, ANY_ID)
def test_id_arrays(values: list[int], other: bytes, value: int) -> None:
    array = compiled.pack_ids(values)
    assert array == idset.pack_ids(values)
    assert compiled.unpack_ids(array) == idset.unpack_ids(array) == sorted(set(values))
    for name in ("ids_contain", "ids_insert", "ids_remove"):
        assert getattr(compiled, name)(array, value) == getattr(idset, name)(array, value)
    assert compiled.ids_union(array, other) == idset.ids_union(array, other)
    assert compiled.ids_intersect(array, compiled.U64Set(other)) == idset.ids_intersect(
        array, idset.U64Set(other)
    )


@given(st.lists(ENTRIES, max_size=6), ANY_ID, ANY_ID, st.integers(0, 40))
def test_merge(sources: list[bytes], upper: int, lower: int, limit: int) -> None:
    expected = merge.merge_newest(sources, upper, lower, limit)
    assert c_merge.merge_newest(sources, upper, lower, limit) == expected
    everything = merge.merge_newest(sources, 2**64 - 1, 0, 1_000)
    assert c_merge.merge_newest(sources, 2**64 - 1, 0, 1_000) == everything
    views = [memoryview(source) for source in sources]
    assert c_merge.merge_newest(views, 2**70, -5, 1_000) == everything
    assert merge.merge_newest(views, 2**70, -5, 1_000) == everything


@given(UNSORTED)
def test_sort_entries(entries: bytes) -> None:
    assert c_merge.sort_entries(entries) == merge.sort_entries(entries)


@given(ENTRIES, ANY_ID, st.lists(ID_ARRAY, min_size=6, max_size=6), st.booleans())
def test_judge(entries: bytes, viewer: int, arrays: list[bytes], require_follow: bool) -> None:
    audience = Audience(viewer, *arrays[:5], require_follow)
    expected = visibility.judge(entries, audience, idset.U64Set(arrays[5]))
    assert c_visibility.judge(entries, audience, compiled.U64Set(arrays[5])) == expected


@st.composite
def judged(draw: st.DrawFn) -> tuple[bytes, bytes]:
    entries = draw(ENTRIES)
    n = entry.count(entries)
    return entries, bytes(draw(st.lists(st.sampled_from([0, 0, 0, 1, 7]), min_size=n, max_size=n)))


@given(judged(), st.data(), ID_ARRAY, PARAMETERS, NOW_MS)
def test_score_is_equal_to_the_bit(
    window: tuple[bytes, bytes],
    data: st.DataObject,
    see_less: bytes,
    params: RankingParameters,
    now_ms: int,
) -> None:
    entries, verdicts = window
    n = len(verdicts)
    rates = data.draw(st.lists(st.floats(width=32), min_size=n, max_size=n))
    engagement = struct.pack(f"<{n}f", *rates)
    authors = sorted(data.draw(st.sets(SMALL, max_size=8)))
    affinity = b"".join(ranking.AFFINITY.pack(a, data.draw(st.floats(width=32))) for a in authors)
    arguments = (entries, verdicts, engagement, affinity, see_less, params, now_ms)
    expected = ranking.score(*arguments)
    assert c_ranking.score(*arguments) == expected
    for value, verdict in zip(struct.unpack(f"<{n}d", expected), verdicts, strict=True):
        assert (value > 0.0) == (verdict == 0) and value < float("inf")


@settings(max_examples=300)
@given(judged(), st.data(), PARAMETERS, st.integers(0, 12), st.integers(0, 30))
def test_select(
    window: tuple[bytes, bytes],
    data: st.DataObject,
    params: RankingParameters,
    page_size: int,
    window_limit: int,
) -> None:
    entries, verdicts = window
    n = len(verdicts)
    values = data.draw(
        st.lists(st.sampled_from([0.5, 1.0, 2.0]) | st.floats(), min_size=n, max_size=n)
    )
    scores = struct.pack(f"<{n}d", *values)
    filler = data.draw(st.sampled_from([0, 100, 185, 192]))
    past = data.draw(st.sets(st.sampled_from(entry.content_ids(entries)))) if n else set()
    served = idset.pack_ids([*past, *range(1, filler)])
    arguments = (entries, verdicts, scores, served, page_size, params, window_limit)
    assert c_paging.select(*arguments) == paging.select(*arguments)


ITEM = st.builds(
    PageItem,
    CONTENT_ID,
    ANY_ID,
    st.none() | st.binary(max_size=200),
    ANY_ID,
    ANY_ID,
    ANY_ID,
    st.floats(allow_nan=False),
    st.integers(0, 3),
)


@given(st.lists(ITEM, max_size=5), st.text(), st.text(), st.text(), st.binary(), st.integers(0, 2))
def test_wire(
    items: list[tuple], cursor: str, head: str, etag: str, receipt: bytes, view: int
) -> None:
    page = (items, cursor, head, etag, receipt, view)
    assert c_wire.encode_page(*page) == wire.encode_page(*page)
    unchanged = (head, etag, receipt)
    assert c_wire.encode_not_modified(*unchanged) == wire.encode_not_modified(*unchanged)


@given(st.lists(ITEM, max_size=5), U64, st.booleans(), U64)
def test_page_etag(items: list[tuple], version: int, more: bool, flags: int) -> None:
    ours = c_wire.page_etag(items, version, more, flags)
    assert ours == wire.page_etag(items, version, more, flags) and len(ours) == 16


@given(ENTRIES, st.integers(-1, 2**64), st.integers(-1, 2**64))
def test_count_within(entries: bytes, at_or_below: int, not_below: int) -> None:
    ours = c_merge.count_within(entries, at_or_below, not_below)
    assert ours == merge.count_within(entries, at_or_below, not_below)
    bounds = (at_or_below, not_below, len(entries) // entry.ENTRY_BYTES)
    assert ours == len(merge.merge_newest([entries], *bounds)) // entry.ENTRY_BYTES
