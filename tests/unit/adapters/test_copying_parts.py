"""Parts of the move to the cluster that need no server."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from feedcore.adapters.cql.driver.session import Statement
from feedcore.codecs.content import Media, encode_content
from feedcore.domain import entry, ids
from feedcore.errors import Unavailable
from feedcore.limits import HOUR_MS, MINUTE_MS
from feedcore.migrating.copy import Tally
from feedcore.migrating.patient import ATTEMPTS_MAX, PatientSession
from feedcore.migrating.tables import _entry_in, _has_media

NOW_MS = 1_780_000_000_000


@pytest.mark.parametrize("body", ["x", "a" * 127, "b" * 128, "\u00e9" * 10_000])
def test_media_is_found_in_the_content(body: str) -> None:
    assert not _has_media(encode_content(body, [], 0))
    assert not _has_media(encode_content(body, [], 2))
    assert _has_media(encode_content(body, [Media("u")], 1))


def test_an_entry_is_found_at_its_place_only() -> None:
    one, two = ids.make(NOW_MS, 0, 0, 0), ids.make(NOW_MS, 0, 0, 1)
    # the key of `one` lies across the author of the first entry
    author = int.from_bytes(entry.order_key(one), "big")
    entries = entry.pack(two, author) + entry.pack(one, 7, 1.5, 4)
    assert _entry_in(entries, one) == entry.pack(one, 7, 1.5, 4)
    assert _entry_in(entries[:20], one) == b"" and _entry_in(b"", one) == b""


def test_rows_that_are_over_need_not_be_there() -> None:
    tally = Tally()
    tally.add("feed")
    tally.add("feed", HOUR_MS, NOW_MS)
    tally.add("feed", 30_000, NOW_MS)
    tally.add("posts", 1_000, NOW_MS)
    assert tally.lasting("feed", NOW_MS) == 2 and tally.lasting("posts", NOW_MS) == 0
    assert tally.lasting("feed", NOW_MS + HOUR_MS + MINUTE_MS) == 1


class Busy:
    """Answers from some attempt on."""

    def __init__(self, failures: int) -> None:
        self.failures = failures

    async def read(self, statement: Statement, parameters: Any = ()) -> list[tuple]:
        if self.failures:
            self.failures -= 1
            raise Unavailable("busy")
        return [(1,)]


def test_a_busy_node_is_asked_again() -> None:
    statement = Statement("SELECT 1")

    async def read(failures: int) -> list[tuple]:
        return await PatientSession(Busy(failures), 0.0).read(statement)  # type: ignore[arg-type]

    assert asyncio.run(read(ATTEMPTS_MAX - 1)) == [(1,)]
    with pytest.raises(Unavailable):
        asyncio.run(read(ATTEMPTS_MAX))
