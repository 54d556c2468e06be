"""Sorted deliveries: by day, user, entry; unique; many posts to one user as well as one to many."""

from __future__ import annotations

import pytest

from feedcore import native
from feedcore.domain import entry, ids
from feedcore.limits import DAY_MS

FIRST_DAY = ids.EPOCH_MS // DAY_MS
OLD = entry.pack(ids.make(ids.EPOCH_MS + 5, 0, 0, 0), 7)
NEWER = entry.pack(ids.make(ids.EPOCH_MS + 9, 0, 0, 0), 7)
NEXT_DAY = entry.pack(ids.make(ids.EPOCH_MS + DAY_MS, 0, 0, 0), 7)


def key(user_id: int) -> bytes:
    return user_id.to_bytes(8, "big")


def test_rows_are_in_writing_order() -> None:
    rows = [
        (OLD, native.pack_ids([256, 1, 2**64 - 1])),
        (NEXT_DAY + NEWER + OLD, native.pack_ids([1])),
        (OLD, native.pack_ids([1, 256])),
    ]
    done = [(day, list(run)) for day, run in native.sort_deliveries(rows)]
    assert done == [
        (
            FIRST_DAY,
            [(key(1), NEWER), (key(1), OLD), (key(256), OLD), (key(2**64 - 1), OLD)],
        ),
        (FIRST_DAY + 1, [(key(1), NEXT_DAY)]),
    ]


def test_nothing_to_deliver() -> None:
    assert native.sort_deliveries([]) == []
    assert native.sort_deliveries([(OLD, b""), (b"", native.pack_ids([1]))]) == []


def test_broken_rows_are_refused() -> None:
    for row in ((OLD[:-1], native.pack_ids([1])), (OLD, b"123")):
        with pytest.raises(ValueError):
            native.sort_deliveries([row])


def test_rows_are_a_sequence() -> None:
    ((_, run),) = native.sort_deliveries([(OLD, native.pack_ids(range(10)))])
    assert len(run) == 10 and run[3] == run[-7] == (key(3), OLD)
    assert run[2:4] == [(key(2), OLD), (key(3), OLD)]
    assert list(run) == list(run) == sorted(run)
    with pytest.raises(IndexError):
        run[10]
