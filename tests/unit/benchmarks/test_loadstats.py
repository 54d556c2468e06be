"""The histogram beside exact percentiles, the recorder's window, the schedule's arrivals."""

from __future__ import annotations

import itertools
import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

loadstats = pytest.importorskip(
    "feedcore_bench._native.loadstats", reason="compiled modules are not built"
)
Histogram, Recorder, Schedule = loadstats.Histogram, loadstats.Recorder, loadstats.Schedule
PERCENTS = (0.0, 1.0, 50.0, 90.0, 99.0, 99.9, 99.99, 100.0)
NS = 1_000_000_000


def exact(values: list[int], percent: float) -> int:
    """The value that so many do not exceed."""
    ordered = sorted(values)
    return ordered[max(math.ceil(len(ordered) * percent / 100.0), 1) - 1]


def check(values: list[int]) -> None:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    assert (histogram.count, histogram.min, histogram.max) == (
        len(values),
        min(values),
        max(values),
    )
    assert histogram.mean == pytest.approx(sum(values) / len(values))
    for percent in PERCENTS:
        wanted, got = exact(values, percent), histogram.percentile(percent)
        assert wanted <= got <= wanted * 1.001, percent
    assert sum(count for _, count in histogram.buckets()) == len(values)


@given(st.lists(st.integers(0, 2**42 - 1), min_size=1, max_size=300))
def test_percentiles_have_three_digits(values: list[int]) -> None:
    check(values)


@given(st.integers(0, 41), st.integers(-2, 2))
def test_at_the_edges_of_slots(power: int, beside: int) -> None:
    check([max(0, min(2**42 - 1, 2**power + beside))])


def test_a_distribution_with_a_tail() -> None:
    source = random.Random(7)
    check([int(source.lognormvariate(13, 2)) for _ in range(20_000)])


def test_beyond_the_range() -> None:
    histogram = Histogram()
    histogram.record(2**50)
    histogram.record(-5)
    assert (histogram.min, histogram.max, histogram.count) == (0, 2**50, 2)
    assert histogram.percentile(100) == 2**42 - 1


@given(st.lists(st.integers(0, 2**40), max_size=50), st.lists(st.integers(0, 2**40), max_size=50))
def test_merged_is_as_if_recorded_together(one: list[int], two: list[int]) -> None:
    first, second, whole = Histogram(), Histogram(), Histogram()
    for value in one:
        first.record(value)
    for value in two:
        second.record(value)
    for value in one + two:
        whole.record(value)
    first.merge(second)
    assert (first.count, first.min, first.max) == (whole.count, whole.min, whole.max)
    assert first.buckets() == whole.buckets()
    first.clear()
    assert (first.count, first.max, first.percentile(99), first.buckets()) == (0, 0, 0, [])


@pytest.mark.parametrize("by_start", [False, True])
def test_only_the_measured_time_counts(by_start: bool) -> None:
    recorder = Recorder(2, 100, 200, by_start)
    for start, end in ((10, 99), (10, 100), (99, 150), (100, 199), (150, 200), (200, 300)):
        recorder.record(1, 0, start, end, 5)
    recorder.record(0, 8, 120, 130, 0)
    recorder.record(0, 99, 120, 130, 0)
    counted = [99, 50] if by_start else [90, 51, 99]
    assert recorder.counts(1) == {0: len(counted)}
    assert recorder.counts(0) == {2: 1, 8: 1}
    assert recorder.body_bytes == 5 * len(counted)
    assert recorder.answered == len(counted) + 2
    assert recorder.histograms[1].count == len(counted)
    assert recorder.histograms[1].max == max(counted)
    assert recorder.histograms[0].count == 0 and recorder.failed.count == 2
    # seconds show everything
    assert recorder.tick(1.0)[:3] == (1.0, 6, 2)
    assert recorder.tick(2.0) == (2.0, 0, 0, 0, 0, 0)
    assert len(recorder.seconds) == 2


def arrivals(schedule: Any, until_ns: int) -> list[int]:
    schedule.advance(until_ns)
    return [schedule.pop() for _ in range(schedule.waiting)]


def test_constant_arrivals_in_steps() -> None:
    schedule = Schedule([(1.0, 4), (0.5, 8)], 5 * NS, 1, False, 100)
    assert schedule.next_ns == 5 * NS + NS // 4
    assert arrivals(schedule, 5 * NS) == []
    first = arrivals(schedule, 6 * NS)
    assert first == [5 * NS + NS // 4 * k for k in (1, 2, 3)]
    rest = arrivals(schedule, 100 * NS)
    assert rest == [6 * NS + NS // 8 * k for k in (1, 2, 3)]
    assert schedule.over and schedule.arrivals == 6 and schedule.dropped == 0


@pytest.mark.parametrize("seed", range(5))
def test_poisson_arrivals(seed: int) -> None:
    rate, seconds = 1_000, 20.0
    schedule = Schedule([(seconds, rate)], 0, seed, True, 1 << 20)
    found = arrivals(schedule, 100 * NS)
    expected = rate * seconds
    assert abs(len(found) - expected) < 5 * math.sqrt(expected)
    assert found == sorted(found) and found[0] >= 0 and found[-1] < seconds * NS
    gaps = [after - before for before, after in itertools.pairwise(found)]
    # of an exponential distribution: deviation = mean, a share of 1/e above the mean
    mean = sum(gaps) / len(gaps)
    assert math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) == pytest.approx(
        mean, rel=0.05
    )
    assert sum(gap > mean for gap in gaps) / len(gaps) == pytest.approx(1 / math.e, rel=0.05)
    again = Schedule([(seconds, rate)], 0, seed, True, 1 << 20)
    assert arrivals(again, 100 * NS) == found


def test_a_full_queue_drops_and_says_so() -> None:
    schedule = Schedule([(1.0, 100)], 0, 1, False, 8)
    assert schedule.advance(NS // 2) == 8
    assert (schedule.arrivals, schedule.dropped, schedule.waiting_max) == (50, 42, 8)
    assert schedule.lateness.max == NS // 2 - NS // 100
    assert schedule.pop() == NS // 100  # the oldest stays: it has waited longest
    with pytest.raises(IndexError):
        for _ in range(8):
            schedule.pop()


@pytest.mark.parametrize("steps", [[], [(0, 5)], [(1, 0)], [(1, math.nan)]])
def test_impossible_steps(steps: list[tuple[float, float]]) -> None:
    with pytest.raises(ValueError, match="steps"):
        Schedule(steps, 0, 1, True, 8)
