"""Content ids: layout, order, and a generator that never repeats whatever the clock does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedcore.clock import ManualClock
from feedcore.domain import ids
from feedcore.errors import ClockWentBack

NOW_MS = ids.EPOCH_MS + 123_456_789
TIMES = st.integers(ids.EPOCH_MS, ids.TIME_MAX_MS)
REGIONS = st.integers(0, ids.REGION_MAX)
NODES = st.integers(0, ids.NODE_MAX)
SEQUENCES = st.integers(0, ids.SEQUENCE_MAX)


@given(TIMES, REGIONS, NODES, SEQUENCES)
def test_parts_come_back(ms: int, region: int, node: int, seq: int) -> None:
    content_id = ids.make(ms, region, node, seq)
    assert 0 <= content_id <= ids.ID_MAX
    assert ids.time_ms(content_id) == ms
    assert (ids.region(content_id), ids.node(content_id)) == (region, node)
    assert ids.sequence(content_id) == seq
    assert ids.first_id_at(ms) <= content_id <= ids.last_id_at(ms)
    assert ids.day(content_id) == ms // 86_400_000


@given(TIMES, TIMES)
def test_order_is_order_of_time(a: int, b: int) -> None:
    if a < b:
        assert ids.last_id_at(a) < ids.first_id_at(b)


@pytest.mark.parametrize(
    ("ms", "region", "node", "seq", "named"),
    [
        (ids.EPOCH_MS - 1, 0, 0, 0, "ms"),
        (ids.TIME_MAX_MS + 1, 0, 0, 0, "ms"),
        (NOW_MS, 32, 0, 0, "region"),
        (NOW_MS, 0, 128, 0, "node"),
        (NOW_MS, 0, 0, 1_024, "seq"),
        (NOW_MS, 0, -1, 0, "node"),
    ],
)
def test_parts_that_do_not_fit(ms: int, region: int, node: int, seq: int, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        ids.make(ms, region, node, seq)


def test_times_out_of_range_are_cut() -> None:
    assert ids.first_id_at(0) == 0
    assert ids.last_id_at(ids.EPOCH_MS - 1) == 0
    assert ids.last_id_at(ids.TIME_MAX_MS + 99) == ids.ID_MAX


def test_a_used_up_millisecond_moves_to_the_next() -> None:
    generator = ids.IdGenerator(1, 2, wait_ms_max=5)
    made = [generator.new_id(NOW_MS) for _ in range(2 * 1_024 + 1)]
    assert made == sorted(set(made))
    assert ids.time_ms(made[1_023]) == NOW_MS
    assert ids.time_ms(made[1_024]) == NOW_MS + 1
    assert ids.time_ms(made[-1]) == NOW_MS + 2


def test_a_clock_that_went_back_is_outrun_or_refused() -> None:
    clock = ManualClock(NOW_MS)
    generator = ids.IdGenerator(0, 3, wait_ms_max=100)
    first = generator.new_id(clock.now_ms())
    clock.move_to(NOW_MS - 100)
    second = generator.new_id(clock.now_ms())
    assert second > first
    clock.move_to(NOW_MS - 101)
    with pytest.raises(ClockWentBack, match="101 ms"):
        generator.new_id(clock.now_ms())
    clock.move_to(NOW_MS - 100)
    assert generator.new_id(clock.now_ms()) > second, "a refusal uses nothing up and blocks nothing"


def test_a_flood_is_refused_before_it_runs_too_far_ahead() -> None:
    generator = ids.IdGenerator(0, 0, wait_ms_max=1)
    for _ in range(2 * 1_024):
        generator.new_id(NOW_MS)
    with pytest.raises(ClockWentBack):
        generator.new_id(NOW_MS)
    assert ids.time_ms(generator.new_id(NOW_MS + 1)) == NOW_MS + 2


@given(st.lists(st.integers(-2_000, 2_000), max_size=200))
def test_ids_rise_whatever_the_clock_does(steps: list[int]) -> None:
    generator, now_ms, last = ids.IdGenerator(0, 0, wait_ms_max=1_000), NOW_MS, -1
    for step in steps:
        now_ms += step
        try:
            made = generator.new_id(now_ms)
        except ClockWentBack:
            continue
        assert made > last
        assert ids.time_ms(made) - now_ms <= 1_000
        last = made
