"""The fan-out process: its loops, each a task that is owned, awaited and stopped here.

    loop        every                does
    fan-out     at once / idle wait  turns of FanoutWorker
    merge       (store's thread)     delivery rows into stored feeds
    counters    100 ms when idle     interactions into counts, engagement, affinity
    policy      1 s                  authors between push and pull
    trending    5 s                  the cold-start feed
    upkeep      60 s                 retention, inactive users
    repair      at once / 0.5 s      days of stored feeds that were damaged

A loop that fails is logged and tried again after a pause that doubles up to 30 s: none ends the
others.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from feedcore.clock import Clock
from feedcore.limits import COUNTER_BATCH
from feedcore.ports import SignalStore
from feedcore.services.policy import PolicyReview
from feedcore.workers.fanout import FanoutWorker

IDLE_WAIT_S = 0.01  # a new post waits at most this long for its fan-out; a look costs about 20 us
COUNTERS_IDLE_S = 0.1
POLICY_EVERY_S = 1.0
TRENDING_EVERY_S = 5.0
UPKEEP_EVERY_S = 60.0
FAILURE_WAIT_FIRST_S = 0.1
FAILURE_WAIT_MAX_S = 30.0

log = logging.getLogger(__name__)


class FanoutProcess:
    """Everything that runs beside the API workers, once a data directory."""

    def __init__(
        self,
        fanout: FanoutWorker,
        signals: SignalStore,
        policy: PolicyReview,
        upkeep: Callable[[int], Awaitable[None]],
        repair: Callable[[int], Awaitable[float]],
        merge_all: Callable[[], Awaitable[int]],
        clock: Clock,
    ) -> None:
        self.fanout = fanout
        self._signals = signals
        self._policy = policy
        self._upkeep = upkeep
        self._repair = repair
        self._merge_all = merge_all
        self._clock = clock

    async def run(self, stop: asyncio.Event) -> None:
        """Runs all loops until `stop` is set; returns when each has finished what it was doing."""
        async with asyncio.TaskGroup() as group:
            for name, step in (
                ("fan-out", self._fanout_step),
                ("counters", self._counters_step),
                ("policy", self._policy_step),
                ("trending", self._trending_step),
                ("upkeep", self._upkeep_step),
                ("repair", self._repair_step),
            ):
                group.create_task(self._loop(step, name, stop), name=name)

    async def drain(self) -> None:
        """Works until nothing waits, and stores it: for tools that run without a server."""
        await self._policy.review(self._clock.now_ms())
        while await self.fanout.turn():
            pass
        while await self._signals.apply_counters(COUNTER_BATCH, self._clock.now_ms()):
            pass
        await self._signals.refresh_trending(self._clock.now_ms())
        await self._merge_all()

    async def _loop(
        self, step: Callable[[], Awaitable[float]], name: str, stop: asyncio.Event
    ) -> None:
        """Runs `step` until stopped; it returns how many seconds to wait before the next."""
        failure_wait_s = FAILURE_WAIT_FIRST_S
        while not stop.is_set():
            try:
                wait_s = await step()
                failure_wait_s = FAILURE_WAIT_FIRST_S
            except Exception:  # any failure of one step is retried: the work is still in the store
                log.exception("%s failed; next try in %.1f s", name, failure_wait_s)
                wait_s = failure_wait_s
                failure_wait_s = min(2 * failure_wait_s, FAILURE_WAIT_MAX_S)
            if wait_s <= 0:
                await asyncio.sleep(0)
                continue
            try:
                await asyncio.wait_for(stop.wait(), wait_s)
            except TimeoutError:
                continue

    async def _fanout_step(self) -> float:
        return 0.0 if await self.fanout.turn() else IDLE_WAIT_S

    async def _counters_step(self) -> float:
        applied = await self._signals.apply_counters(COUNTER_BATCH, self._clock.now_ms())
        return 0.0 if applied == COUNTER_BATCH else COUNTERS_IDLE_S

    async def _policy_step(self) -> float:
        await self._policy.review(self._clock.now_ms())
        return POLICY_EVERY_S

    async def _trending_step(self) -> float:
        await self._signals.refresh_trending(self._clock.now_ms())
        return TRENDING_EVERY_S

    async def _upkeep_step(self) -> float:
        await self._upkeep(self._clock.now_ms())
        return UPKEEP_EVERY_S

    async def _repair_step(self) -> float:
        return await self._repair(self._clock.now_ms())
