"""Progress of a load in a log: a line at the beginning, every few seconds, and at the end."""

from __future__ import annotations

import pytest

from feedcore.cli.load import PROGRESS_EVERY_S, progress_lines
from feedcore.clock import ManualClock


def test_lines_are_bounded_in_number_and_say_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    clock = ManualClock(1_000)
    advance = progress_lines(clock)
    for done in range(0, 1_000, 10):
        advance("posts", done, 1_000)
        clock.advance(int(PROGRESS_EVERY_S * 100))  # a tenth
    advance("posts", 1_000, 1_000)
    advance("mutes", 0, 0)
    said = capsys.readouterr().err.splitlines()
    assert said == [
        *(f"posts: {ten} %" for ten in range(0, 100, 10)),
        "posts: 100 %",
        "mutes: 100 %",
    ]
