"""Announcements: what other nodes must hear of, sent to Redis until Redis has acknowledged it.

    pending        waits for the next flush: viewers whose epoch must change, events for the log
    in flight      is in the flush that is under way; there is one at a time
    acknowledged   Redis has it. What a flush could not bring there is pending again

A caller of `announce` waits until all that was pending is acknowledged, or its server is known to
be away: other nodes then ask the system of record. A viewer needs one new epoch, however often
they are announced; events keep their order. If more is pending than can be kept, all of it is
replaced by one event that makes every node invalidate everything.

Invariants: nothing that is pending is dropped without that event; memory is bounded. Not for what
this node invalidates itself (cluster.replication).
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Sequence

from feedcore.adapters.redis.batch import Call
from feedcore.adapters.redis.batcher import Batcher
from feedcore.adapters.redis.events import INVALIDATE_ALL
from feedcore.adapters.redis.keys import EPOCH_BYTES, EPOCH_TTL_MS, Keys
from feedcore.adapters.redis.node_log import NodeLog
from feedcore.errors import Unavailable
from feedcore.resilience import tasks

log = logging.getLogger(__name__)

# A server that is away is known to be after five deadlines; one that is only late, with readers who
# trust it, is waited for.
ANNOUNCE_WAIT_S = 1.0
RETRY_S = 0.1  # well within the probation that readers impose (failure_detector)
# What may be pending: 100 s of our peak of posts at one node of fifty.
PENDING_VIEWERS_MAX = 100_000
PENDING_EVENTS_MAX = 100_000
PENDING_BYTES_MAX = 16 * 1024 * 1024
# One flush: a batch of the batcher, and one entry of the log.
FLUSH_VIEWERS_MAX = 500
FLUSH_EVENTS_MAX = 500


class _Pending:
    """What waits for a flush, and who waits for it. `failed`: viewers whose flush failed; they go
    after the others, so that those of a server that is away hold nobody up.
    """

    __slots__ = ("events", "failed", "invalidate_all", "size", "viewers", "waiters")

    def __init__(self) -> None:
        self.viewers: dict[int, None] = {}
        self.failed: dict[int, None] = {}
        self.events: list[bytes] = []
        self.size = 0  # bytes of events
        self.invalidate_all = False
        self.waiters: list[asyncio.Future[None]] = []

    def __len__(self) -> int:
        return len(self.viewers) + len(self.failed) + len(self.events) + self.invalidate_all

    def add(self, viewers: Sequence[int], events: Sequence[bytes]) -> None:
        for user_id in viewers:
            self.viewers[user_id] = None
            self.failed.pop(user_id, None)
        self.events.extend(events)
        self.size += sum(map(len, events))

    def is_too_much(self) -> bool:
        return (
            len(self.viewers) + len(self.failed) > PENDING_VIEWERS_MAX
            or len(self.events) > PENDING_EVENTS_MAX
            or self.size > PENDING_BYTES_MAX
        )

    def collapse(self) -> None:
        """All of it becomes one event."""
        self.viewers.clear()
        self.failed.clear()
        self.events.clear()
        self.size = 0
        self.invalidate_all = True

    def split_off(self) -> _Pending:
        """Takes what is beyond one flush out of it."""
        rest = _Pending()
        users, failed = list(self.viewers), list(self.failed)
        room = max(FLUSH_VIEWERS_MAX - len(users), 0)
        self.viewers = dict.fromkeys(users[:FLUSH_VIEWERS_MAX] + failed[:room])
        self.failed = {}
        rest.viewers = dict.fromkeys(users[FLUSH_VIEWERS_MAX:])
        rest.failed = dict.fromkeys(failed[room:])
        if len(self.events) > FLUSH_EVENTS_MAX:
            rest.events = self.events[FLUSH_EVENTS_MAX:]
            del self.events[FLUSH_EVENTS_MAX:]
            rest.size = sum(map(len, rest.events))
            self.size -= rest.size
        return rest

    def put_before(self, newer: _Pending) -> None:
        """Takes in what was announced during a flush: it goes after what the flush left, but for
        viewers whose flush failed.
        """
        self.add(list(newer.viewers), newer.events)
        self.invalidate_all = self.invalidate_all or newer.invalidate_all
        self.waiters += newer.waiters


class Announcements:
    """One a process; `start` before the first, `close` flushes what can be flushed."""

    def __init__(self, batcher: Batcher, keys: Keys, log_: NodeLog) -> None:
        self._batcher = batcher
        self._keys = keys
        self._log = log_
        self._pending = _Pending()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self.overflows = 0

    @property
    def pending(self) -> int:
        """Announcements that are not acknowledged and not in flight."""
        return len(self._pending)

    def start(self) -> None:
        """Begins to flush."""
        self._task = tasks.start(self._serve(), "announcements")

    async def close(self) -> None:
        """Tries once more to flush what is pending."""
        self._closing = True
        self._wake.set()
        if self._task is not None:
            await asyncio.wait([self._task])
        if self.pending:
            log.warning(
                "%d announcements were not made: other nodes may be late to notice", self.pending
            )

    async def announce(self, viewers: Sequence[int], events: Sequence[bytes]) -> None:
        """Returns when it is acknowledged, or its server is known to be away."""
        self._pending.add(viewers, events)
        self._bound()
        self._wake.set()
        waiter = asyncio.get_running_loop().create_future()
        self._pending.waiters.append(waiter)
        try:
            async with asyncio.timeout(ANNOUNCE_WAIT_S):
                await waiter
        except TimeoutError:
            log.debug("an announcement is still pending")

    def _bound(self) -> None:
        if self._pending.is_too_much():
            self._pending.collapse()
            self.overflows += 1

    async def _serve(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self.pending:
                if await self._flush():
                    continue
                if self._closing:
                    return
                await self._wait_to_retry()
            if self._closing:
                return

    async def _wait_to_retry(self) -> None:
        """What is announced meanwhile does not wait: its server may be another one."""
        try:
            async with asyncio.timeout(RETRY_S):
                await self._wake.wait()
        except TimeoutError:
            return
        self._wake.clear()

    async def _flush(self) -> bool:
        """One flush; whether all of it is acknowledged."""
        flight, self._pending = self._pending, _Pending()
        rest = flight.split_off()
        beyond = bool(rest.viewers or rest.events)
        sent = [(user_id, self._send_epoch(user_id)) for user_id in flight.viewers]
        events = [INVALIDATE_ALL, *flight.events] if flight.invalidate_all else flight.events
        logged = self._log.append(events)[0] if events else None
        failed = [user_id for user_id, call in sent if not await _is_acknowledged(call)]
        servers = {self._batcher.nodes.node_of(self._keys.epoch(one)) for one in failed}
        rest.failed.update(dict.fromkeys(failed))
        if logged is not None and not await _is_acknowledged(logged):
            servers.add(self._log.server)
            rest.events[:0] = flight.events
            rest.size += flight.size
            rest.invalidate_all = flight.invalidate_all
        acknowledged = not servers
        away = bool(servers) and all(map(self._batcher.is_away, servers))
        if (away and not beyond) or (acknowledged and not len(rest)):
            for waiter in flight.waiters:
                if not waiter.done():
                    waiter.set_result(None)
        else:
            rest.waiters = flight.waiters
        rest.put_before(self._pending)
        self._pending = rest
        self._bound()
        return acknowledged

    def _send_epoch(self, user_id: int) -> Call:
        key, epoch = self._keys.epoch(user_id), secrets.token_bytes(EPOCH_BYTES)
        return self._batcher.tell(key, "SET", key, epoch, "PX", EPOCH_TTL_MS)


async def _is_acknowledged(call: Call) -> bool:
    try:
        await call.reply()
    except Unavailable:
        return False
    return True
