"""Epoch counters: both twins bump the same counters."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedcore.codecs import epochs

KINDS = st.sampled_from([epochs.VIEWER, epochs.FEED, epochs.AUTHOR, epochs.CONTENT])
IDS = st.integers(0, 2**64 - 1)


def made() -> list:
    """One of each twin, over a map of its own."""
    twins = [epochs.Epochs]
    try:
        from feedcore._native.store.epochs import Epochs

        twins.append(Epochs)
    except ImportError:
        pass
    return [twin(memoryview(bytearray(epochs.EPOCHS_BYTES))) for twin in twins]


@given(st.lists(st.tuples(KINDS, IDS), min_size=1, max_size=20))
def test_twins_bump_the_same_counters(bumps: list[tuple[int, int]]) -> None:
    maps = made()
    for one in maps:
        for kind, ident in bumps:
            before = one.read(kind, ident)
            one.bump(kind, ident)
            assert one.read(kind, ident) == before + 1
    first = maps[0]
    for one in maps[1:]:
        for kind, ident in bumps:
            assert one.read(kind, ident) == first.read(kind, ident)


def test_kinds_of_one_id_have_their_own_counters() -> None:
    for one in made():
        one.bump(epochs.VIEWER, 7)
        assert [one.read(kind, 7) for kind in (1, 2, 3, 4)] == [1, 0, 0, 0]


def test_generation_and_era_count() -> None:
    for one in made():
        one.advance()
        one.begin_era()
        one.begin_era()
        assert (one.generation, one.era) == (1, 2)


def test_a_map_of_another_size_is_refused() -> None:
    for one in made():
        with pytest.raises(ValueError, match="epochs"):
            type(one)(memoryview(bytearray(64)))


def test_counters_live_where_the_layout_says() -> None:
    for twin in {type(one) for one in made()}:
        buffer = bytearray(epochs.EPOCHS_BYTES)
        one = twin(memoryview(buffer))
        one.advance()
        one.begin_era()
        one.bump(epochs.AUTHOR, 1)
        assert struct.unpack_from("<I", buffer, 24) == (1,)
        assert struct.unpack_from("<Q", buffer, 32) == (1,)
        assert sum(buffer[epochs.HEADER_BYTES :]) == 1
