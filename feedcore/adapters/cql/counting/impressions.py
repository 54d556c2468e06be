"""Impressions: added up in memory, written behind, absolute for each run of counting.

A counter column would count twice what is written twice. So each process has rows of its own: "this
run has shown the post n times so far", which may be written again. Readers add up the rows of all
runs. A run ends, and another begins, when too many posts are remembered or an hour is over. A
process that is killed loses what it had not written: about a second. Not for anything exact.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from feedcore.adapters.common.write_behind import WriteBehind
from feedcore.adapters.cql.driver.session import Consistency, Session, Statement, Write
from feedcore.clock import Clock
from feedcore.limits import HOUR_MS, IMPRESSION_BUFFER_MAX

RUN_MS = HOUR_MS  # a post is shown for days by all processes: some hundred rows
RUN_POSTS_MAX = 200_000  # posts whose count of this run is remembered: about 20 MB

# one replica is enough to go on: a lost count is one view
_SHOWN = Statement(
    "INSERT INTO impressions (content_id, run, shown) VALUES (?, ?, ?)", Consistency.ONE
)


class Impressions:
    """One a process."""

    def __init__(self, session: Session, clock: Clock) -> None:
        self._session = session
        self._clock = clock
        self._behind = WriteBehind(self._flush)
        self._totals: dict[int, int] = {}  # of this run
        self._waiting: dict[int, None] = {}  # posts whose total is not written yet
        self._buffered = 0
        self._run = secrets.randbits(63)
        self._run_since_ms = clock.now_ms()
        self.dropped = 0

    def add(self, content_ids: Sequence[int], times: int) -> None:
        """Bounded: what does not fit until the next write is dropped, and counted as dropped."""
        if self._buffered + len(content_ids) > IMPRESSION_BUFFER_MAX:
            self.dropped += len(content_ids) * times
            return
        self._buffered += len(content_ids)
        totals, waiting = self._totals, self._waiting
        for content_id in content_ids:
            totals[content_id] = totals.get(content_id, 0) + times
            waiting[content_id] = None
        self._behind.touch()

    async def write(self) -> int:
        """Writes what waits; how many posts. What fails is written with the next, as totals are
        absolute; if its run is over it is dropped.
        """
        waiting, self._waiting, self._buffered = self._waiting, {}, 0
        run, totals = self._run, self._totals
        over = self._is_over()
        if over:
            self._run, self._totals = secrets.randbits(63), {}
            self._run_since_ms = self._clock.now_ms()
        writes = [Write(_SHOWN, (content_id, run, totals[content_id])) for content_id in waiting]
        try:
            await self._session.write_many(writes)
        except BaseException:
            if over:
                self.dropped += len(waiting)
            else:
                self._waiting = waiting | self._waiting
            raise
        return len(writes)

    async def close(self) -> None:
        """Writes what waits."""
        await self._behind.close()

    async def _flush(self) -> None:
        await self.write()

    def _is_over(self) -> bool:
        age_ms = self._clock.now_ms() - self._run_since_ms
        return age_ms >= RUN_MS or len(self._totals) >= RUN_POSTS_MAX
