"""Who was seen: once an hour, within bounds, and not lost with a write that failed."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from feedcore.adapters.common import seen_users
from feedcore.adapters.common.seen_users import SEEN_EVERY_MS, SeenUsers


class Table:
    """Takes what is written, unless it is full."""

    def __init__(self) -> None:
        self.rows: dict[int, int] = {}
        self.touched = 0
        self.full = False

    async def write(self, seen: Iterable[tuple[int, int]]) -> None:
        if self.full:
            raise OSError("full")
        self.rows.update(seen)

    def touch(self) -> None:
        self.touched += 1


async def test_once_an_hour_and_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seen_users, "SEEN_WAITING_MAX", 3)
    table = Table()
    seen = SeenUsers(table.write, table.touch)
    for user in (1, 2, 3, 4, 1):
        seen.note(user, 5)
    assert (seen.dropped, table.touched) == (1, 3)
    assert await seen.flush() == 3
    seen.note(1, 5 + SEEN_EVERY_MS - 1)
    assert await seen.flush() == 0
    seen.note(4, 6)  # who found no room is noted at the next load
    seen.note(1, 5 + SEEN_EVERY_MS)
    assert await seen.flush() == 2
    assert table.rows == {1: 5 + SEEN_EVERY_MS, 2: 5, 3: 5, 4: 6}


async def test_what_was_not_written_waits() -> None:
    table = Table()
    seen = SeenUsers(table.write, table.touch)
    seen.note(1, 5)
    table.full = True
    with pytest.raises(OSError, match="full"):
        await seen.flush()
    seen.note(2, 7)
    table.full = False
    assert await seen.flush() == 2
    assert table.rows == {1: 5, 2: 7}


async def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seen_users, "SEEN_KEPT_MAX", 3)
    table = Table()
    seen = SeenUsers(table.write, table.touch)
    for user in range(10):
        seen.note(user, 5)
    assert len(seen._noted) <= 3
    assert await seen.flush() == 10
