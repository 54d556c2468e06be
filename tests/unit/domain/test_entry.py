"""Packed entries: 20 bytes whose order is the order of a feed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedcore.domain import entry
from feedcore.domain.entry import Entry, Visibility
from feedcore.domain.ids import ID_MAX

CONTENT_IDS = st.integers(0, ID_MAX)
U64 = st.integers(0, 2**64 - 1)


@given(CONTENT_IDS, U64, st.integers(1, 65_535), st.integers(0, 65_535))
def test_round_trip(content_id: int, author_id: int, stored: int, flags: int) -> None:
    packed = entry.pack(content_id, author_id, stored / 1_000, flags)
    assert len(packed) == entry.ENTRY_BYTES
    assert entry.unpack(packed) == [Entry(content_id, author_id, stored / 1_000, flags)]
    assert entry.content_ids(packed) == [content_id]
    assert packed[:8] == entry.order_key(content_id)


@given(CONTENT_IDS, CONTENT_IDS)
def test_byte_order_is_newest_first(a: int, b: int) -> None:
    assert (entry.pack(a, 0) < entry.pack(b, 2**64 - 1)) == (a > b or a == b)


@pytest.mark.parametrize(("quality", "kept"), [(0.0, 0.001), (-3.0, 0.001), (99.0, 65.535)])
def test_quality_is_cut(quality: float, kept: float) -> None:
    assert entry.unpack(entry.pack(1, 1, quality))[0].quality == kept


@pytest.mark.parametrize("bad", [-1, ID_MAX + 1])
def test_content_ids_have_63_bits(bad: int) -> None:
    with pytest.raises(ValueError, match="content_id"):
        entry.pack(bad, 1)


def test_half_an_entry_is_refused() -> None:
    with pytest.raises(ValueError, match="19 bytes"):
        entry.unpack(entry.pack(1, 1)[:-1])


def test_unknown_visibility_is_private() -> None:
    flags = [0, 1, 2, 3, entry.FLAG_MEDIA | 1]
    seen = [entry.unpack(entry.pack(1, 1, 1.0, flag))[0].visibility for flag in flags]
    assert seen == [
        Visibility.PUBLIC,
        Visibility.FOLLOWERS,
        Visibility.PRIVATE,
        Visibility.PRIVATE,
        Visibility.FOLLOWERS,
    ]
