"""The sweeper: relays the jobs whose rows are still there: their writers crashed, or Kafka was
away.

Each shard of the outbox is read three times, by three passes that follow the clock at an age:

    fresh   5 s     jobs that were not relayed: a killed process, a Kafka that is away
    again   1 min   rows that a slow batch wrote late
    last    15 min  the same after every batch log and timeout; up to here the shard is empty for
                    good, which is the mark that is stored for the next start

A pass reads what lies between its pointer and its age, relays it, and moves on; a job that cannot
be relayed holds it. So a row is read a few times, not on every turn, and what was deleted before
the pointer is never read over again. Where the mark is old or missing, one scan of the partitions
says which minutes have rows at all, and the others are skipped.

Invariants: bounded rows and reads a turn; several sweepers at once relay a job twice at worst; a
shard that somebody else looked at within HINT_MS is left to them. That is a hint (no lock: clocks
that differ cost double work). The clock is the real one, as that of job ids.
"""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_left
from dataclasses import dataclass

from feedcore.adapters.contracts.job_ids import SHARDS
from feedcore.adapters.cql.driver.session import Consistency, Session, Statement
from feedcore.adapters.kafka import job_wire as jobwire
from feedcore.adapters.kafka.dead_letters import DeadLetters
from feedcore.adapters.kafka.job_wire import Unreadable
from feedcore.adapters.kafka.outbox import KafkaOutbox, Row, delete_of
from feedcore.adapters.kafka.producer import KafkaProducer
from feedcore.clock import Clock
from feedcore.domain import ids
from feedcore.limits import HOUR_MS, MINUTE_MS, RETENTION_MS, SECOND_MS
from feedcore.resilience import tasks

PASS_AGES_MS = (5 * SECOND_MS, MINUTE_MS, 15 * MINUTE_MS)
SWEEP_EVERY_S = 1.0
SWEEP_ROWS_MAX = 500  # of a shard relayed in one turn
SWEEP_READS_MAX = 120  # minutes of a shard read in one turn
SCAN_BEHIND_MS = HOUR_MS  # reading minute by minute costs more than a scan from here on
HINT_MS = 3 * SECOND_MS  # three turns missed: somebody else takes the shard

_ROWS = Statement(
    "SELECT job_id, job FROM fanout_events"
    " WHERE shard = ? AND minute = ? AND job_id > ? AND job_id <= ? LIMIT ?"
)
_PARTITIONS = Statement("SELECT DISTINCT shard, minute FROM fanout_events")
_MARKS = Statement(
    "SELECT shard, mark_ms, sweeper, swept_ms FROM sweep_marks WHERE shard IN ?", Consistency.ONE
)
_MARK = Statement("INSERT INTO sweep_marks (shard, mark_ms, sweeper, swept_ms) VALUES (?, ?, ?, ?)")

log = logging.getLogger(__name__)


@dataclass(slots=True)
class SweepStats:
    """Since the process started; `oldest_ms`: age of the oldest job that could not be relayed."""

    swept: int = 0
    unreadable: int = 0
    turns: int = 0
    oldest_ms: int = 0


class _Shard:
    """What one sweeper knows of one shard: everything up to a pointer was seen at that age."""

    def __init__(self, shard: int, mark_ms: int, now_ms: int) -> None:
        self.shard = shard
        _fresh, again, last = PASS_AGES_MS
        mark_ms = max(mark_ms, now_ms - RETENTION_MS)
        # each pass begins where the next older one will look, so that nothing lies between them
        self.pointers = [now_ms - again, now_ms - last, mark_ms]
        self.scanned_ms = 0  # up to here `minutes` are all that have rows
        self.minutes: list[int] = []
        self.reads = 0
        self.rows = 0
        self.more = False
        self.held_ms = 0  # time of the oldest row that could not be relayed, 0 if all could

    @property
    def mark_ms(self) -> int:
        """Up to here the shard is empty for good."""
        return self.pointers[-1]

    def next_start(self, pointer_ms: int) -> int:
        """Where rows may be after the pointer."""
        if pointer_ms >= self.scanned_ms:
            return pointer_ms + 1
        place = bisect_left(self.minutes, (pointer_ms + 1) // MINUTE_MS)
        if place == len(self.minutes):
            return self.scanned_ms + 1
        return max(self.minutes[place] * MINUTE_MS, pointer_ms + 1)


class Sweeper:
    """One a fan-out process."""

    def __init__(
        self,
        session: Session,
        outbox: KafkaOutbox,
        producer: KafkaProducer,
        dead: DeadLetters,
        clock: Clock,
    ) -> None:
        self._session = session
        self._outbox = outbox
        self._producer = producer
        self._dead = dead
        self._clock = clock
        self._name = outbox.next_job_id()
        self._shards: dict[int, _Shard] = {}
        self._task: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()
        self.stats = SweepStats()

    def start(self) -> None:
        """Sweeps every second, behind."""
        if self._task is None:
            self._task = tasks.start(self._run(), "sweeper")

    async def close(self) -> None:
        """Ends after the turn that is under way."""
        self._stop.set()
        if self._task is not None:
            await self._task
            self._task = None

    async def turn(self) -> bool:
        """Looks at the shards that are its business; True if there is more to do at once."""
        now_ms = self._clock.now_ms()
        mine = await self._choose(now_ms)
        async with asyncio.TaskGroup() as group:
            for shard in mine:
                group.create_task(self._sweep(shard, now_ms))
        for shard in mine:
            row = (shard.shard, shard.mark_ms, self._name, self._clock.now_ms())
            await self._session.write(_MARK, row)
        held = [shard.held_ms for shard in mine if shard.held_ms]
        self.stats.oldest_ms = max(now_ms - min(held), 0) if held else 0
        self.stats.turns += 1
        return any(shard.more for shard in mine)

    async def _run(self) -> None:
        while not self._stop.is_set():
            wait_s = SWEEP_EVERY_S
            try:
                if await self.turn():
                    wait_s = 0.0
            except Exception:  # whatever failed, the rows are still there: the next turn finds them
                log.warning("sweep failed; next in %.0f s", wait_s, exc_info=True)
            try:
                await asyncio.wait_for(self._stop.wait(), wait_s)
            except TimeoutError:
                continue

    async def _choose(self, now_ms: int) -> list[_Shard]:
        rows = await self._session.read(_MARKS, ([*range(SHARDS)],))
        marks = {row[0]: row[1:] for row in rows}
        mine = []
        for number in range(SHARDS):
            mark_ms, sweeper, swept_ms = marks.get(number, (0, self._name, 0))
            if sweeper != self._name and now_ms - swept_ms < HINT_MS:
                self._shards.pop(number, None)
                continue
            if sweeper != self._name or number not in self._shards:
                self._shards[number] = _Shard(number, mark_ms or 0, now_ms)
            mine.append(self._shards[number])
        settled_ms = now_ms - PASS_AGES_MS[-1]
        await self._scan(
            [one for one in mine if max(one.mark_ms, one.scanned_ms) < settled_ms - SCAN_BEHIND_MS],
            settled_ms,
        )
        return mine

    async def _scan(self, behind: list[_Shard], settled_ms: int) -> None:
        if not behind:
            return
        found = await self._session.read(_PARTITIONS)
        for shard in behind:
            shard.minutes = sorted(row[1] for row in found if row[0] == shard.shard)
            shard.scanned_ms = settled_ms

    async def _sweep(self, shard: _Shard, now_ms: int) -> None:
        shard.reads = shard.rows = shard.held_ms = 0
        shard.more = False
        for place, age_ms in enumerate(PASS_AGES_MS):
            await self._pass(shard, place, now_ms - age_ms)

    async def _pass(self, shard: _Shard, place: int, bound_ms: int) -> None:
        while shard.pointers[place] < bound_ms:
            if shard.reads >= SWEEP_READS_MAX or shard.rows >= SWEEP_ROWS_MAX:
                shard.more = True
                return
            pointer_ms = shard.pointers[place] = min(
                shard.next_start(shard.pointers[place]) - 1, bound_ms
            )
            if pointer_ms == bound_ms:
                return
            minute = (pointer_ms + 1) // MINUTE_MS
            upto_ms = min(bound_ms, (minute + 1) * MINUTE_MS - 1)
            # away: one row tells how old the oldest is, and holds the pass
            limit = SWEEP_ROWS_MAX - shard.rows if self._producer.up else 1
            bounds = (ids.last_id_at(pointer_ms), ids.last_id_at(upto_ms))
            found = await self._session.read(_ROWS, (shard.shard, minute, *bounds, limit))
            shard.reads += 1
            shard.rows += len(found)
            held = await self._relay(found) if found else None
            if held is not None:
                shard.pointers[place] = ids.time_ms(held) - 1
                held_ms = ids.time_ms(held)
                shard.held_ms = min(shard.held_ms or held_ms, held_ms)
                return
            if len(found) == limit:  # more of the last one's millisecond may be there
                upto_ms = ids.time_ms(found[-1][0]) - 1
            shard.pointers[place] = upto_ms

    async def _relay(self, found: list[tuple]) -> int | None:
        """The id of the first row that could not be relayed."""
        rows = []
        for row_id, blob in found:
            try:
                rows.append(Row(row_id, jobwire.decode(blob)))
            except Unreadable as error:
                self.stats.unreadable += 1
                await self._dead.bury(row_id, blob, f"outbox: {error}", self._clock.now_ms())
                await self._session.write_many([delete_of(row_id)])
        if not self._producer.up:
            return rows[0].row_id if rows else None
        sent = await self._outbox.deliver(rows) if rows else []
        self.stats.swept += sum(sent)
        return next((row.row_id for row, done in zip(rows, sent, strict=True) if not done), None)
