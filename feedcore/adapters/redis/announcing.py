"""Announcements: what others must hear of, told to Redis until it is through.

State of an announcement: due (to go with the next payment) -> told (in a payment under way) ->
paid; or owed again, if the payment failed. Who announces waits until it is paid, or its server is
known to be away: others then ask the truth. A user who is owed a new epoch needs only one, however
often; events keep their order. If more is owed than can be kept, all of it is dropped for one
event that makes every node forget everything.

Invariants: one payment at a time; nothing is dropped without that event being owed; memory is
bounded. Not for what this node does for itself (validation).
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Sequence

from feedcore.adapters.redis.batcher import Batcher, Call
from feedcore.adapters.redis.events import FORGET
from feedcore.adapters.redis.keys import EPOCH_BYTES, EPOCH_TTL_MS, Keys
from feedcore.adapters.redis.node_log import NodeLog
from feedcore.errors import Unavailable
from feedcore.resilience import tasks

log = logging.getLogger(__name__)

# A server that is away is known to be after five deadlines; one that is only late, with readers who
# trust it, is waited for.
ANNOUNCE_WAIT_S = 1.0
RETRY_S = 0.1  # well within the probation that readers impose (failure_detector)
# What may be owed: 100 s of our peak of posts at one node of fifty.
OWED_VIEWERS_MAX = 100_000
OWED_EVENTS_MAX = 100_000
OWED_BYTES_MAX = 16 * 1024 * 1024
# One payment: a batch of the batcher, and one entry of the log.
PAY_VIEWERS_MAX = 500
PAY_EVENTS_MAX = 500


class _Due:
    """What waits, and who waits for it. `again`: users whose payment failed; they go after the
    others, so that those of a server that is away do not hold anybody up.
    """

    __slots__ = ("again", "events", "forget", "size", "viewers", "waiters")

    def __init__(self) -> None:
        self.viewers: dict[int, None] = {}
        self.again: dict[int, None] = {}
        self.events: list[bytes] = []
        self.size = 0
        self.forget = False
        self.waiters: list[asyncio.Future[None]] = []


class Announcements:
    """One a process; `start` before the first, `close` pays what can be paid."""

    def __init__(self, batcher: Batcher, keys: Keys, log_: NodeLog) -> None:
        self._batcher = batcher
        self._keys = keys
        self._log = log_
        self._due = _Due()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self.overflows = 0

    @property
    def owed(self) -> int:
        """Announcements that are not through."""
        due = self._due
        return len(due.viewers) + len(due.again) + len(due.events) + due.forget

    def start(self) -> None:
        """Begins to pay."""
        self._task = tasks.start(self._serve(), "announcements")

    async def close(self) -> None:
        """Tries once more to pay what is owed."""
        self._closing = True
        self._wake.set()
        if self._task is not None:
            await asyncio.wait([self._task])
        if self.owed:
            log.warning("%d announcements were not made: others may be late to notice", self.owed)

    async def announce(self, viewers: Sequence[int], events: Sequence[bytes]) -> None:
        """Returns when it is paid, or owed."""
        due = self._due
        for user_id in viewers:
            due.viewers[user_id] = None
            due.again.pop(user_id, None)
        due.events.extend(events)
        due.size += sum(map(len, events))
        self._bound(due)
        self._wake.set()
        waiter = asyncio.get_running_loop().create_future()
        due.waiters.append(waiter)
        try:
            async with asyncio.timeout(ANNOUNCE_WAIT_S):
                await waiter
        except TimeoutError:
            log.debug("an announcement is owed")

    def _bound(self, due: _Due) -> None:
        if (
            len(due.viewers) + len(due.again) > OWED_VIEWERS_MAX
            or len(due.events) > OWED_EVENTS_MAX
            or due.size > OWED_BYTES_MAX
        ):
            due.viewers.clear()
            due.again.clear()
            due.events.clear()
            due.size = 0
            due.forget = True
            self.overflows += 1

    async def _serve(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self.owed:
                if await self._pay():
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

    async def _pay(self) -> bool:
        """One payment; whether all of it is through."""
        paying, self._due = self._due, _Due()
        rest = self._split(paying)
        beyond = bool(rest.viewers or rest.events)
        told: list[tuple[int, Call]] = []
        for user_id in paying.viewers:
            key = self._keys.epoch(user_id)
            epoch = secrets.token_bytes(EPOCH_BYTES)
            told.append((user_id, self._batcher.tell(key, "SET", key, epoch, "PX", EPOCH_TTL_MS)))
        events = [FORGET, *paying.events] if paying.forget else paying.events
        logged = self._log.append(events)[0] if events else None
        unpaid = [user_id for user_id, call in told if not await _is_through(call)]
        through = not unpaid
        rest.again.update(dict.fromkeys(unpaid))
        servers = {self._batcher.nodes.node_of(self._keys.epoch(one)) for one in unpaid}
        if logged is not None and not await _is_through(logged):
            through = False
            servers.add(self._log.server)
            rest.events[:0] = paying.events
            rest.size += paying.size
            rest.forget = paying.forget
        waiters = paying.waiters
        away = not through and all(map(self._batcher.is_away, servers))
        if (away and not beyond) or (through and not (rest.viewers or rest.again or rest.events)):
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)
            waiters = []
        self._take_back(rest, waiters)
        return through

    def _take_back(self, rest: _Due, waiters: list[asyncio.Future[None]]) -> None:
        """What is not paid goes before what was announced meanwhile, but for `again`."""
        newer = self._due
        rest.viewers.update(newer.viewers)
        for user_id in newer.viewers:
            rest.again.pop(user_id, None)
        rest.events.extend(newer.events)
        rest.size += newer.size
        rest.forget = rest.forget or newer.forget
        rest.waiters = waiters + newer.waiters
        self._due = rest
        self._bound(rest)

    def _split(self, paying: _Due) -> _Due:
        """Takes what is beyond one payment out of it."""
        rest = _Due()
        users = list(paying.viewers)
        again = list(paying.again)
        room = max(PAY_VIEWERS_MAX - len(users), 0)
        paying.viewers = dict.fromkeys(users[:PAY_VIEWERS_MAX] + again[:room])
        paying.again = {}
        rest.viewers = dict.fromkeys(users[PAY_VIEWERS_MAX:])
        rest.again = dict.fromkeys(again[room:])
        if len(paying.events) > PAY_EVENTS_MAX:
            rest.events = paying.events[PAY_EVENTS_MAX:]
            del paying.events[PAY_EVENTS_MAX:]
            rest.size = sum(map(len, rest.events))
            paying.size -= rest.size
        return rest


async def _is_through(call: Call) -> bool:
    try:
        await call.reply()
    except Unavailable:
        return False
    return True
