"""NodeReplica: keeps this node's replica of node-wide state current, and announces its writes.

    the log's server is          callers of `observe_node` get node-wide state
    trusted                      from the node log: one read for all who ask in the same turn
    suspect, or on probation     from the system of record, by a read that began after they asked;
                                 timelines of pulled authors are then at most 1 s old
    due for a resync, or         as a whole from the system of record, then from the log; everything
    its log has a gap            that the node keeps is invalidated once

What the log only says to have changed (settings, modes, trending) is read from the system of record
before callers go on. If it does not answer within RENEW_S they go on with what is known, no page
that is made is left to others, and the follower asks until it is read.

Invariants: nobody is answered by a read that began before they asked; Redis is never needed: no
failure of it is raised. One event loop's. Not for what belongs to one user (cache_validation).
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Sequence

from feedcore import native
from feedcore.adapters.cluster.overlay import OVERLAY_MS
from feedcore.adapters.cluster.record_reader import RecordReader
from feedcore.adapters.cluster.replica import ReplicaState
from feedcore.adapters.cluster.viewer_epochs import ViewerEpochs
from feedcore.adapters.contracts.announcements import Event
from feedcore.adapters.contracts.replica import SystemOfRecord
from feedcore.adapters.redis.announcing import Announcements
from feedcore.adapters.redis.batch import Call
from feedcore.adapters.redis.batcher import Batcher
from feedcore.adapters.redis.events import InvalidateAll, pack, unpack_entry
from feedcore.adapters.redis.keys import Keys
from feedcore.adapters.redis.link import end_task, ignore_failure
from feedcore.adapters.redis.node_log import LogRead, NodeLog
from feedcore.clock import Clock
from feedcore.codecs.epochs import AUTHOR
from feedcore.errors import FeedcoreError, Unavailable
from feedcore.limits import SECOND_MS
from feedcore.resilience import tasks

log = logging.getLogger(__name__)

TIMELINE_AGE_MAX_MS = SECOND_MS  # while nobody says who has published
PULLED_BUMPS_MAX = 50_000  # above this many authors, invalidating everything costs less
FOLLOW_PAUSE_S = 0.02  # between looks at a busy log; readers look by themselves
SUSPECT_PAUSE_S = 0.1


class _Round:
    """One read of node-wide state, for all who asked before it began. `log_read` is known before
    the task ends: whether the log was read to its end, by a server that is trusted.
    """

    __slots__ = ("batch", "log_read", "task")

    def __init__(self, call: Call) -> None:
        self.batch = call.batch
        self.log_read: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.task: asyncio.Task[None]

    def over(self, _: asyncio.Task[None]) -> None:
        """The task ended, maybe before it knew: nobody waits for ever."""
        if not self.log_read.done():
            self.log_read.set_result(False)


class NodeReplica:
    """Implements `contracts.replica.Replica`. `start` before the first call, `close` at the end."""

    def __init__(
        self,
        batcher: Batcher,
        keys: Keys,
        state: ReplicaState,
        source: SystemOfRecord,
        epochs: native.Epochs,
        clock: Clock,
    ) -> None:
        self._batcher = batcher
        self._detector = batcher.detector
        self._epochs = epochs
        self._clock = clock
        self._node = secrets.randbits(63) + 1
        self._record = RecordReader(source, state, clock)
        self._round: _Round | None = None
        self._rounds: set[asyncio.Task[None]] = set()
        self._follower: asyncio.Task[None] | None = None
        self._timelines_ms = 0
        self._read_s = clock.monotonic()
        self.state = state
        self.log = NodeLog(batcher, keys.log, self._node)
        self.viewers = ViewerEpochs(epochs, clock)
        self.announcements = Announcements(batcher, keys, self.log)
        self.on_resync: list[Callable[[], None]] = []  # called when everything kept is invalidated
        self.resyncs = 0
        self.gaps = 0

    # --- life -----------------------------------------------------------------------------------

    async def start(self) -> None:
        """Reads what is replicated, and follows the log from then on. Raises what the system of
        record raises; Redis may be away.
        """
        await self._batcher.start()
        try:
            end = await self.log.find_end()
        except Unavailable as error:
            log.warning("redis is away at the start: %s", error)
            await self._record.read()
        else:
            await self._resync(end)
        self.announcements.start()
        self._follower = tasks.start(self._follow(), "node log")

    async def close(self) -> None:
        """Flushes pending announcements if it can, and ends what runs."""
        await self.announcements.close()
        for task in (self._follower, *self._rounds):
            await end_task(task)
        await self.log.close()

    async def _follow(self) -> None:
        """A quiet node stays current, and notices a server that is away."""
        failing = False
        while True:
            try:
                await self.log.newer()
                await asyncio.sleep(FOLLOW_PAUSE_S)
            except Unavailable:
                await asyncio.sleep(SUSPECT_PAUSE_S)
            try:
                await self.observe_node()
                self.state.prune()
                failing = False
                if self._record.is_behind:
                    await asyncio.sleep(SUSPECT_PAUSE_S)
                    await self._record.retry()
            except FeedcoreError as error:
                if not failing:
                    log.warning("neither redis nor the system of record can be read: %s", error)
                failing = True

    # --- contracts.replica.Replica --------------------------------------------------------------

    async def observe_node(self) -> None:
        """The state is as of this call, or later. Raises Unavailable only if Redis is away and the
        system of record, too.
        """
        await asyncio.shield(self._join_round().task)

    async def observe_log(self) -> bool:
        """As `observe_node`, by the log alone: False if it cannot be relied on now. Settings may
        be behind.
        """
        return await asyncio.shield(self._join_round().log_read)

    async def announce(self, viewers: Sequence[int] = (), events: Sequence[Event] = ()) -> None:
        """See `contracts.announcements.Announcer`. This node goes by it at once."""
        packed = [pack(event) for event in events]
        for user_id in viewers:
            self.viewers.invalidate(user_id)
        for event in events:
            self.state.apply(event)
        await self.announcements.announce(viewers, packed)

    @property
    def log_age_s(self) -> float:
        """Since the log was last read to its end."""
        return self._clock.monotonic() - self._read_s

    # --- rounds: the log, read once for all who ask ---------------------------------------------

    def _join_round(self) -> _Round:
        """The next read: one that has begun may not know what was asked since."""
        current = self._round
        return self._begin_round() if current is None or current.batch.begun else current

    def _begin_round(self) -> _Round:
        position = self.log.position
        call = self.log.ask() if position else self.log.ask_end()
        begun = _Round(call)
        task = begun.task = asyncio.get_running_loop().create_task(
            self._read_round(begun, call, position), name="node-wide state"
        )
        self._rounds.add(task)
        task.add_done_callback(self._rounds.discard)
        task.add_done_callback(ignore_failure)
        task.add_done_callback(begun.over)
        self._round = begun
        return begun

    async def _read_round(self, current: _Round, call: Call, position: int) -> None:
        began_s, now_ms = self._clock.monotonic(), self._clock.now_ms()
        try:
            log_read = await self._read_log(call, position) and not self._detector.is_resync_due()
        except Unavailable:
            log_read = False
        current.log_read.set_result(log_read)
        if not log_read:
            # nobody joins any more: a read from here on began after all of them have asked
            await self._observe_without_log(self._record.begun)
            return
        await self._record.renew()
        self._record.note_synced(now_ms)
        self._read_s = max(self._read_s, began_s)

    async def _read_log(self, call: Call, position: int) -> bool:
        """Applies what is new; whether that is all there is to know."""
        reply = await call.reply()
        if not position:
            return False
        while True:
            read = self.log.understand(reply, position)
            if read.gap:
                self._lose_log()
                return False
            self._apply(read)
            if not read.more:
                return self._detector.is_trusted(self.log.server)
            position = self.log.position
            if not position:
                return False
            reply = await self.log.ask().reply()

    def _lose_log(self) -> None:
        if self.log.position:
            self.gaps += 1
            self.log.position = 0
            self._detector.lost(self.log.server)

    def _apply(self, read: LogRead) -> None:
        for position, data in read.entries:
            if not self.log.position or position <= self.log.position:
                continue  # another round was first, or found a gap
            self.log.position = position
            self._apply_entry(position, data)

    def _apply_entry(self, position: int, data: bytes) -> None:
        node, events = unpack_entry(data)
        for event in events:
            if not isinstance(event, InvalidateAll):
                self.state.apply(event, position, own=node == self._node)
            elif position > self.state.floor:
                self._detector.lost(self.log.server)

    # --- without the log ------------------------------------------------------------------------

    async def _observe_without_log(self, begun_before: int) -> None:
        """Redis is away, or not trusted yet."""
        self._invalidate_timelines()
        async with self._record.turn(begun_before) as is_due:
            if is_due and not await self._resync_if_due():
                await self._record.read()

    def _invalidate_timelines(self) -> None:
        """Of pulled authors: nobody says who of them has published."""
        now_ms = int(self._clock.monotonic() * SECOND_MS)
        if self._timelines_ms and now_ms - self._timelines_ms < TIMELINE_AGE_MAX_MS:
            return
        self._timelines_ms = now_ms
        if len(self.state.pulled) > PULLED_BUMPS_MAX:
            self._epochs.begin_era()
            return
        for author_id in self.state.pulled:
            self._epochs.bump(AUTHOR, author_id)

    async def _resync_if_due(self) -> bool:
        """Begins anew with the log, if its server may be trusted by now."""
        detector, server = self._detector, self.log.server
        if not detector.is_resync_due() and (self.log.position or not detector.is_trusted(server)):
            return False
        began_s = self._batcher.monotonic()
        try:
            await self._resync(await self.log.find_end())
        except Unavailable as error:
            log.info("the node log cannot be read yet: %s", error)
            return False
        self._epochs.begin_era()
        for listener in self.on_resync:
            listener()
        self.resyncs += 1
        detector.resynced(began_s)
        return True

    async def _resync(self, end: int) -> None:
        """The state from the system of record, and the overlay from the log as far as it goes."""
        await self._record.read_all(end)
        first = max((end >> 64) - OVERLAY_MS, 0) << 64
        for position, data in await self.log.between(first, end):
            self._apply_entry(position, data)
        self.log.position = max(self.log.position, end)
        await self._record.renew_now()
        self._read_s = self._clock.monotonic()
