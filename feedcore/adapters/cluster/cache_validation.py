"""ClusterCacheValidation: CacheValidation and Announcer of a node in a cluster, over Redis.

Before a page: the viewer's epoch and what is new in the node log, one question for everybody who
asks in the same turn. What they say is applied before anybody goes on:

    the epoch                    what this node keeps of the user
    is what was seen last        counts (for half an overlay's time ; then it is loaded anew)
    differs, or is not known     is forgotten: VIEWER and FEED are bumped
    is not there                 is forgotten, and a new epoch is begun

    the servers (trust)          shared things
    trusted                      from the log, by the replica
    away, or in their grace      from the truth, read after the asking began; what is kept of the
                                 user is forgotten each time, outboxes are at most 1 s old
    settling, or a gap           the replica is read anew, and everything kept is forgotten once

What the log only says to have changed (settings, modes, trending) is read from the truth before
anybody goes on, unless it does not answer within RENEW_S: then readers go on with what is known,
no page that is made is left to others, and the follower asks until it is read.

Invariants: an epoch is read before anything it vouches for is loaded; nobody is answered by a read
that began before they asked; a page of another node is served only if it would be made again. Redis
is never needed: no failure of it is raised to a reader or a writer. One loop's.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Sequence

from feedcore import native
from feedcore.adapters.cluster.page_cache import UserPages
from feedcore.adapters.cluster.replica import OVERLAY_MS, ReplicaState
from feedcore.adapters.contracts.announcements import Event
from feedcore.adapters.contracts.replica import SystemOfRecord
from feedcore.adapters.redis.announcing import Announcements
from feedcore.adapters.redis.batcher import Batch, Batcher, Call, end_task
from feedcore.adapters.redis.events import Forget, pack, unpack_entry
from feedcore.adapters.redis.keys import EPOCH_BYTES, EPOCH_TTL_MS, Keys
from feedcore.adapters.redis.node_log import LogRead, NodeLog
from feedcore.adapters.redis.seen_epochs import SeenEpochs
from feedcore.clock import Clock
from feedcore.codecs.epochs import AUTHOR, FEED, VIEWER
from feedcore.errors import FeedcoreError, Unavailable
from feedcore.limits import MINUTE_MS, SECOND_MS, TOMBSTONE_AGE_MAX_MS
from feedcore.ports.cache_validation import StalePage
from feedcore.ports.resident import ViewerRow
from feedcore.resilience import tasks

log = logging.getLogger(__name__)

OUTBOX_AGE_MAX_MS = SECOND_MS  # while nobody says who has published
SYNC_MARGIN_MS = MINUTE_MS  # a tombstone written then may have an earlier time: clocks, slow writes
PULLED_BUMPS_MAX = 50_000  # above this many authors, forgetting everything costs less
FOLLOW_PAUSE_S = 0.02  # between looks at a busy log; readers look by themselves
AWAY_PAUSE_S = 0.1
RENEW_S = 1.0  # three small reads; posts do not depend on them
WINDOW_AGE_MAX_S = OVERLAY_MS // 2 // SECOND_MS


class _Round:
    """One read of what is shared, for all who asked before it began. `log_read` is known before
    the task ends: whether the log was read to its end, and may be believed.
    """

    __slots__ = ("batch", "log_read", "task")

    def __init__(self, call: Call) -> None:
        self.batch = call.batch
        self.log_read: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.task: asyncio.Task[None]

    def over(self, _: asyncio.Task[None]) -> None:
        """Ended on the way: nobody waits for ever."""
        if not self.log_read.done():
            self.log_read.set_result(False)


class ClusterCacheValidation:
    """See the module."""

    def __init__(
        self,
        batcher: Batcher,
        keys: Keys,
        replica: ReplicaState,
        source: SystemOfRecord,
        epochs: native.Epochs,
        clock: Clock,
    ) -> None:
        self._batcher = batcher
        self._trust = batcher.trust
        self._keys = keys
        self.replica = replica
        self._source = source
        self._epochs = epochs
        self._clock = clock
        self._node = secrets.randbits(63) + 1
        self._log = NodeLog(batcher, keys.log, self._node)
        self._announcements = Announcements(batcher, keys, self._log)
        self._seen = SeenEpochs()
        self.pages = UserPages(batcher, keys, replica, clock, self._log)
        self._round: _Round | None = None
        self._reading = asyncio.Lock()  # the truth, one at a time: an older answer must not be last
        self._truths_begun = self._truths_ended = 0
        self._behind = False  # what is stale could not be read: nobody waits for it again
        self._synced_ms = 0
        self._outboxes_ms = 0
        self._looked_s = clock.monotonic()
        self._follower: asyncio.Task[None] | None = None
        self._rounds: set[asyncio.Task[None]] = set()
        self.bypassed = 0  # loads while the servers were not trusted
        self.forgotten = 0  # times that everything was
        self.gaps = 0

    # --- life -----------------------------------------------------------------------------------

    async def start(self) -> None:
        """Reads what is replicated, and follows the log from then on. Raises what the truth raises;
        Redis may be away.
        """
        await self._batcher.start()
        try:
            end = await self._log.find_end()
        except Unavailable as error:
            log.warning("redis is away at the start: %s", error)
            await self._read_truth()
        else:
            await self._resync(end)
        self._announcements.start()
        self._follower = tasks.start(self._follow(), "node log")

    async def close(self) -> None:
        """Pays what is owed if it can, and ends what runs."""
        await self._announcements.close()
        for task in (self._follower, *self._rounds):
            await end_task(task)
        await self._log.close()

    async def _follow(self) -> None:
        """A quiet node stays current, and notices a server that is away."""
        behind = False
        while True:
            try:
                await self._log.newer()
                await asyncio.sleep(FOLLOW_PAUSE_S)
            except Unavailable:
                await asyncio.sleep(AWAY_PAUSE_S)
            try:
                await self.observe_node()
                self.replica.prune()
                behind = False
                if self._behind:
                    await asyncio.sleep(AWAY_PAUSE_S)
                    async with self._reading:
                        await self._renew()
            except FeedcoreError as error:
                if not behind:
                    log.warning("neither redis nor the truth can be read: %s", error)
                behind = True

    # --- CacheValidation --------------------------------------------------------------------------

    async def observe_node(self) -> None:
        """See `ports.validation`. Raises Unavailable only if Redis is away and the truth, too."""
        await asyncio.shield(self._join_round().task)

    async def observe_viewer(self, user_id: int) -> None:
        """See `ports.validation`."""
        key = self._keys.epoch(user_id)
        trusted = self._trusts(key)
        batch = self._batcher.get(key)
        await self.observe_node()
        await self._judge(user_id, key, batch, trusted=trusted)

    def is_bypassed(self, user_id: int) -> bool:
        """See `ports.validation`."""
        return not (self._trusts(self._keys.epoch(user_id)) and self._trusts(self._keys.log))

    async def page(self, user_id: int, shape: bytes) -> bytes | None:
        """See `ports.validation`."""
        key = self._keys.epoch(user_id)
        trusted = self._trusts(key)
        batch = self._batcher.get(key)
        page_key = self._keys.page(user_id, shape)
        page_batch = self._batcher.get(page_key)
        await self.observe_node()
        epoch = await self._judge(user_id, key, batch, trusted=trusted)
        if epoch is None:
            return None
        return await self.pages.find(user_id, shape, epoch, page_batch, page_key)

    async def pages_of(self, asked: Sequence[tuple[int, bytes]]) -> list[bytes | None]:
        """See `ports.validation`. Users without an epoch, and all while Redis is not to be relied
        on, are left to `page`.
        """
        if not asked:
            return []
        keys = self._keys
        epochs = [keys.epoch(user_id) for user_id, _ in asked]
        wanted = [keys.page(user_id, shape) for user_id, shape in asked if shape]
        before = self._trusted(epochs)
        found = self._batcher.get_each([*epochs, *wanted])
        await self.observe_node()
        for batch in dict.fromkeys(found):
            await batch.wait()
        trusted = [one and now for one, now in zip(before, self._trusted(epochs), strict=True)]
        proofs = self.pages.proofs_of(epochs)
        pages = zip(found[len(asked) :], wanted, strict=True)
        replies: list[bytes | None] = []
        for at, (user_id, shape) in enumerate(asked):
            page, page_key = next(pages) if shape else (None, b"")
            epoch = found[at].values[epochs[at]]
            if epoch is None or not trusted[at]:
                replies.append(None)
                continue
            self._meet(user_id, epoch)
            body = None
            if page is not None:
                data = page.values[page_key]
                body = self.pages.look(user_id, shape, epoch, proofs[at], data)
            replies.append(body or b"")
        return replies

    async def stale_page(self, user_id: int, shape: bytes) -> StalePage | None:
        """See `ports.validation`. Goes by the log alone: settings that are behind hide nothing."""
        key, page_key = self._keys.epoch(user_id), self._keys.page(user_id, shape)
        trusted = self._trusts(key)
        asked = (self._batcher.get(key), self._batcher.get(page_key))
        try:
            log_read = await asyncio.shield(self._join_round().log_read)
            for batch in asked:
                await batch.wait()
        except Unavailable:
            return None
        epoch, data = asked[0].values[key], asked[1].values[page_key]
        if not log_read or epoch is None or not trusted or not self._trusts(key):
            return None
        return self.pages.find_stale(key, epoch, data)

    def keep_none(self, user_id: int, shape: bytes) -> None:
        """See `ports.validation`."""
        self.pages.making.end((user_id, shape))

    def keep_page(
        self, user_id: int, shape: bytes, body: bytes, content_ids: bytes, followees: bytes
    ) -> None:
        """See `ports.validation`."""
        self.pages.keep(user_id, shape, body, content_ids, followees)

    async def viewer_rows(self, user_ids: Sequence[int], depth: int) -> list[ViewerRow | None]:
        """Rows that other nodes have loaded with at least that depth, as good as loaded now."""
        try:
            return await self.pages.find_rows(user_ids, depth)
        except Unavailable:
            return [None] * len(user_ids)

    def keep_viewer_rows(
        self, user_ids: Sequence[int], rows: Sequence[ViewerRow], depth: int
    ) -> None:
        """Leaves rows that `viewer_rows` did not have, and which were loaded since, to others."""
        self.pages.keep_rows(user_ids, rows, depth)

    def _trusts(self, key: bytes) -> bool:
        """As of the question: what is answered within the grace does not count after it."""
        return self._trust.is_trusted(self._batcher.nodes.node_of(key))

    def _trusted(self, keys: Sequence[bytes]) -> list[bool]:
        """`_trusts` of each."""
        if self._batcher.nodes.cluster:
            return [self._trusts(key) for key in keys]
        return [self._trusts(keys[0])] * len(keys)

    async def _judge(
        self, user_id: int, key: bytes, batch: Batch, *, trusted: bool
    ) -> bytes | None:
        """The epoch in force; None if there is none to rely on, and nothing kept counts."""
        try:
            await batch.wait()
            epoch = batch.values[key]
            if epoch is None:
                epoch = await self._begin_epoch(key)
        except Unavailable:
            epoch = None
        if epoch is None or not trusted or not self._trusts(key):
            self.bypassed += 1
            self._seen.forget(user_id)
            self._forget_user(user_id)
            self._epochs.bump(AUTHOR, user_id)  # their own posts are read anew, too
            return None
        self._meet(user_id, epoch)
        return epoch

    def _meet(self, user_id: int, epoch: bytes) -> None:
        """What is kept of a user counts if this is the epoch that was seen last."""
        number = int.from_bytes(epoch, "little")
        known, since_s = self._seen.find(user_id)
        now_s = int(self._clock.monotonic())
        if known != number or now_s - since_s > WINDOW_AGE_MAX_S:
            self._seen.put(user_id, number, now_s)
            self._forget_user(user_id)

    async def _begin_epoch(self, key: bytes) -> bytes | None:
        """Of a user who has none: the one that is set first counts."""
        fresh = secrets.token_bytes(EPOCH_BYTES)
        self._batcher.ask(key, "SET", key, fresh, "NX", "PX", EPOCH_TTL_MS)
        return await self._batcher.ask(key, "GET", key).reply()

    def _forget_user(self, user_id: int) -> None:
        self._epochs.bump(VIEWER, user_id)
        self._epochs.bump(FEED, user_id)

    @property
    def state(self) -> ReplicaState:
        """See `contracts.replica.Replica`."""
        return self.replica

    # --- Announcer ------------------------------------------------------------------------------

    async def announce(self, viewers: Sequence[int] = (), events: Sequence[Event] = ()) -> None:
        """See `announce.Announcer`. This node goes by it at once."""
        packed = [pack(event) for event in events]
        for user_id in viewers:
            self._seen.forget(user_id)
            self._forget_user(user_id)
        for event in events:
            self.replica.apply(event)
        await self._announcements.announce(viewers, packed)

    @property
    def owed(self) -> int:
        """Announcements that are not through."""
        return self._announcements.owed

    @property
    def log_age_s(self) -> float:
        """Since the log was last read to its end."""
        return self._clock.monotonic() - self._looked_s

    # --- what is shared -------------------------------------------------------------------------

    def _join_round(self) -> _Round:
        """The next read of what is shared: one that has begun may not know what was asked since."""
        current = self._round
        return self._begin_round() if current is None or current.batch.begun else current

    def _begin_round(self) -> _Round:
        position = self._log.position
        call = self._log.ask() if position else self._log.ask_end()
        begun = _Round(call)
        task = begun.task = asyncio.get_running_loop().create_task(
            self._read_shared(begun, call, position), name="shared read"
        )
        self._rounds.add(task)
        task.add_done_callback(self._rounds.discard)
        task.add_done_callback(_look_at)
        task.add_done_callback(begun.over)
        self._round = begun
        return begun

    async def _read_shared(self, current: _Round, call: Call, position: int) -> None:
        began_s, now_ms = self._clock.monotonic(), self._clock.now_ms()
        try:
            log_read = await self._read_log(call, position) and not self._trust.is_settling()
        except Unavailable:
            log_read = False
        current.log_read.set_result(log_read)
        if not log_read:
            # nobody joins any more: a read of the truth from here on began after all have asked
            await self._without_log(self._truths_begun)
            return
        if not self._behind and (self.replica.stale or self._reading.locked()):
            async with self._reading:
                if not self._behind:
                    await self._renew()
        self._synced_ms = max(self._synced_ms, now_ms)
        self._looked_s = max(self._looked_s, began_s)

    async def _read_log(self, call: Call, position: int) -> bool:
        """Applies what is new; whether that is all there is to know."""
        reply = await call.reply()
        if not position:
            return False
        while True:
            read = self._log.understand(reply, position)
            if read.gap:
                self._lose_log()
                return False
            self._apply(read)
            if not read.more:
                return self._trust.is_trusted(self._log.server)
            position = self._log.position
            if not position:
                return False
            reply = await self._log.ask().reply()

    def _lose_log(self) -> None:
        if self._log.position:
            self.gaps += 1
            self._log.position = 0
            self._trust.lost(self._log.server)

    def _apply(self, read: LogRead) -> None:
        for position, data in read.entries:
            if not self._log.position or position <= self._log.position:
                continue  # another round was first, or found a gap
            self._log.position = position
            self._apply_entry(position, data)

    def _apply_entry(self, position: int, data: bytes) -> None:
        node, events = unpack_entry(data)
        for event in events:
            if not isinstance(event, Forget):
                self.replica.apply(event, position, own=node == self._node)
            elif position > self.replica.floor:
                self._trust.lost(self._log.server)

    async def _renew(self) -> None:
        try:
            async with asyncio.timeout(RENEW_S):
                if self.replica.stale:
                    await self.replica.renew(self._source)
        except (FeedcoreError, TimeoutError) as error:
            if not self._behind:
                why = str(error) or f"no answer within {RENEW_S:g} s"
                log.warning("settings are behind: %s", why)
            self._behind = True
        else:
            self._behind = False

    # --- the truth ------------------------------------------------------------------------------

    async def _without_log(self, asked: int) -> None:
        """Redis is away, or not to be believed yet. `asked`: reads of the truth begun by then."""
        self._forget_outboxes()
        async with self._reading:
            if self._truths_ended > asked:
                return  # one that began later was just waited for
            self._truths_begun += 1
            number = self._truths_begun
            if not await self._settle():
                await self._read_truth()
            self._truths_ended = number

    async def _settle(self) -> bool:
        """Begins anew with the log, if it may be believed by now."""
        trust, server = self._trust, self._log.server
        if not trust.is_settling() and (self._log.position or not trust.is_trusted(server)):
            return False
        began_s = self._batcher.monotonic()
        try:
            end = await self._log.find_end()
            await self._resync(end)
        except Unavailable as error:
            log.info("the node log cannot be read yet: %s", error)
            return False
        self._epochs.begin_era()
        self.pages.making.clear()
        self.forgotten += 1
        trust.settle(began_s)
        return True

    async def _resync(self, end: int) -> None:
        """The replica from the truth, and the overlay from the log as far as it goes."""
        now_ms = self._clock.now_ms()
        await self.replica.resync(self._source, end)
        first = max((end >> 64) - OVERLAY_MS, 0) << 64
        for position, data in await self._log.between(first, end):
            self._apply_entry(position, data)
        self._log.position = max(self._log.position, end)
        await self._renew()
        self._synced_ms = max(self._synced_ms, now_ms)
        self._looked_s = self._clock.monotonic()

    async def _read_truth(self) -> None:
        now_ms = self._clock.now_ms()
        since_ms = self._synced_ms or now_ms - TOMBSTONE_AGE_MAX_MS
        await self.replica.refresh(self._source, since_ms - SYNC_MARGIN_MS)
        self._synced_ms = max(self._synced_ms, now_ms)

    def _forget_outboxes(self) -> None:
        now_ms = int(self._clock.monotonic() * SECOND_MS)
        if self._outboxes_ms and now_ms - self._outboxes_ms < OUTBOX_AGE_MAX_MS:
            return
        self._outboxes_ms = now_ms
        if len(self.replica.pulled) > PULLED_BUMPS_MAX:
            self._epochs.begin_era()
            return
        for author_id in self.replica.pulled:
            self._epochs.bump(AUTHOR, author_id)


def _look_at(task: asyncio.Task[None]) -> None:
    """A failure that nobody waits for any more was the business of calls that are over."""
    if not task.cancelled():
        task.exception()
