"""Push, pull, draining: the whole table, and no flapping."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedcore.domain.policy import DRAIN_MS, Mode, bounds, next_mode

PUSH, PULL, DRAINING = Mode.PUSH, Mode.PULL, Mode.DRAINING
NOW = 10_000


@pytest.mark.parametrize(
    ("mode", "followers", "until", "expected"),
    [
        (PUSH, 99, 0, (PUSH, 0)),
        (PUSH, 100, 0, (PULL, 0)),
        (PULL, 100, 0, (PULL, 0)),
        (PULL, 80, 0, (PULL, 0)),
        (PULL, 79, 0, (DRAINING, NOW + DRAIN_MS)),
        (DRAINING, 79, NOW + 1, (DRAINING, NOW + 1)),
        (DRAINING, 99, NOW + 1, (DRAINING, NOW + 1)),
        (DRAINING, 79, NOW, (PUSH, 0)),
        (DRAINING, 100, NOW + 1, (PULL, 0)),
        (DRAINING, 100, NOW - 1, (PULL, 0)),
    ],
)
def test_table(mode: Mode, followers: int, until: int, expected: tuple[Mode, int]) -> None:
    assert next_mode(mode, followers, until, 100, 20, NOW) == expected


def test_what_each_mode_does() -> None:
    assert [(mode.pushed, mode.pulled) for mode in Mode] == [
        (True, False),
        (False, True),
        (True, True),
    ]


def test_bounds() -> None:
    assert bounds(100, 20) == (100, 80)
    assert bounds(100, 0) == (100, 100)
    assert bounds(0, 50) == (0, 0)


def test_threshold_zero_pulls_everybody_for_good() -> None:
    assert next_mode(PUSH, 0, 0, 0, 20, NOW) == (PULL, 0)
    assert next_mode(PULL, 0, 0, 0, 20, NOW) == (PULL, 0)


@given(
    st.sampled_from(Mode),
    st.integers(0, 300),
    st.integers(0, 300),
    st.integers(0, 50),
    st.integers(),
)
def test_looking_again_changes_nothing(
    mode: Mode, followers: int, threshold: int, hysteresis: int, until: int
) -> None:
    once = next_mode(mode, followers, until, threshold, hysteresis, NOW)
    assert next_mode(once[0], followers, once[1], threshold, hysteresis, NOW) == once


@given(st.integers(0, 300), st.integers(0, 300), st.integers(0, 50))
def test_pull_never_becomes_push_at_once(followers: int, threshold: int, hysteresis: int) -> None:
    mode, until = next_mode(PULL, followers, 0, threshold, hysteresis, NOW)
    assert mode.pulled
    if mode is DRAINING:
        assert next_mode(mode, followers, until, threshold, hysteresis, until - 1)[0].pulled
