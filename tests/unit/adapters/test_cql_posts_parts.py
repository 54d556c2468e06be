"""Parts of the CQL stores that need no server."""

from __future__ import annotations

import asyncio
import math
import random
import struct

import pytest

from feedcore.adapters.common.engagement_table import (
    PAIR,
    EngagementTable,
)
from feedcore.adapters.cql.counting.affinity import packed_shares
from feedcore.adapters.cql.driver.ids import bigints
from feedcore.adapters.cql.driver.write_stamps import Stamps
from feedcore.domain import entry
from feedcore.domain.engagement import engagement_of, weight_of
from feedcore.errors import Unavailable
from feedcore.limits import AFFINITY_AUTHORS_MAX
from feedcore.resilience.gather import gather_all, gather_bounded


async def a_turn() -> None:
    """Lets everybody else go on once."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    loop.call_soon(done.set_result, None)
    await done


async def test_each_keeps_the_order_and_the_width() -> None:
    under_way = most = 0

    async def work(item: int) -> int:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        for _ in range(item % 5):
            await a_turn()
        under_way -= 1
        return item * 2

    assert await gather_bounded(range(50), work, 7) == [2 * item for item in range(50)]
    assert most == 7
    assert await gather_bounded([], work) == []


async def test_the_first_error_is_raised_when_all_that_began_have_ended() -> None:
    ended: list[int] = []

    async def work(item: int) -> None:
        if item == 1:
            raise Unavailable("one")
        for _ in range(10):
            await a_turn()
        ended.append(item)
        if item == 2:
            raise Unavailable("two")

    with pytest.raises(Unavailable, match="one"):
        await gather_bounded(range(20), work, 4)
    assert sorted(ended) == [0, 2, 3]
    with pytest.raises(Unavailable, match="one"):
        await gather_all(work(0), work(1), work(5))
    assert sorted(ended) == [0, 0, 2, 3, 5]


def test_stamps_ascend_also_when_the_clock_goes_back() -> None:
    clock = iter([100, 200, 150, 150, 60_000_500])
    stamps = Stamps(lambda: next(clock))
    assert [
        stamps.new_stamp(),
        stamps.new_stamp(),
        stamps.new_stamp(),
        stamps.new_stamp(after=900),
    ] == [
        *(100, 200, 201),
        901,
    ]
    assert stamps.minute() == 1


def test_a_column_of_ids() -> None:
    numbers = [0, 1, 2**63 - 1]
    assert bigints(struct.pack(">3q", *numbers)).tolist() == numbers


def test_affinity_is_of_what_is_set_and_of_others_alone() -> None:
    like, comment, click, hide = 1, 2, 4, 5
    rows = [
        (like, 7, True),
        (comment, 8, True),
        (like, 8, False),
        (click, 1, True),
        (hide, 9, True),
    ]
    assert dict(struct.iter_unpack("<Qf", packed_shares(1, rows))) == pytest.approx(
        {7: 1 / 3, 8: 2 / 3}
    )
    assert packed_shares(1, rows[3:]) == b""
    many = [(like, author, True) for author in range(2, 2_000) for _ in range(author % 3 + 1)]
    random.Random(1).shuffle(many)
    kept = list(struct.iter_unpack("<Qf", packed_shares(1, many)))
    assert len(kept) == AFFINITY_AUTHORS_MAX
    assert kept == sorted(kept)
    assert all(author % 3 == 2 for author, _ in kept)
    (image,) = struct.iter_unpack("<Qf", packed_shares(1, [(like, 2**63 - 1, True)]))
    assert image == (2**63 - 1, 1.0)


def test_the_engagement_table_holds_what_was_applied_last() -> None:
    table = EngagementTable()
    table.apply(b"".join(PAIR.pack(content_id, content_id / 2) for content_id in range(1, 100)))
    table.apply(PAIR.pack(5, 9.0))
    keys = b"".join(entry.pack(content_id, 0) for content_id in (5, 6, 1_000))
    assert struct.unpack("<3f", table.lookup(keys)) == (9.0, 3.0, 0.0)
    assert weight_of(engagement_of(12.3)) == pytest.approx(12.3)
    assert engagement_of(-1.0) == 0.0
    assert engagement_of(math.e - 1) == pytest.approx(1.0)
