"""What operators read and change: ranking, hot settings, dead letters, rebuilds."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Unpack

from feedcore.clock import Clock
from feedcore.domain.experiments import RankingConfig
from feedcore.errors import InvalidField, NotFound
from feedcore.limits import LIST_PAGE_MAX
from feedcore.ports import (
    CacheValidation,
    DeadLetter,
    FanoutQueue,
    FeedStore,
    Lane,
    QueueLag,
    SettingsStore,
)
from feedcore.ports.finding import Finding
from feedcore.services.admission import check_id
from feedcore.services.hot import Hot, HotChanges, HotSettings
from feedcore.services.viewer import RANKING

DEAD_LETTERS_DEFAULT = 100
# Probes open connections: tools that ask for status again and again must not make a load of it.
FINDINGS_KEPT_S = 5.0
Diagnosis = Callable[[], Awaitable[list[Finding]]]


async def finds_nothing() -> list[Finding]:
    """The diagnosis of an engine over a store that its caller has opened, and looks after."""
    return []


class AdminService:
    """One a worker; what it changes is in force in all of them."""

    def __init__(
        self,
        settings: SettingsStore,
        queue: FanoutQueue,
        feeds: FeedStore,
        validation: CacheValidation,
        hot: Hot,
        store_counts: Callable[[], Awaitable[dict[str, int]]],
        clock: Clock,
        diagnosis: Diagnosis,
    ) -> None:
        self._settings = settings
        self._queue = queue
        self._feeds = feeds
        self._validation = validation
        self._hot = hot
        self._clock = clock
        self._diagnosis = diagnosis
        self._diagnosing: asyncio.Task[list[Finding]] | None = None
        self._diagnosed_s = -FINDINGS_KEPT_S
        self.store_counts = store_counts

    async def get_ranking(self, version: int = 0) -> RankingConfig:
        """The configuration in force (0), or an older version. Raises NotFound."""
        await self._validation.observe_node()
        newest = self._settings.version(RANKING)
        if newest == 0 and version == 0:
            return RankingConfig()
        document = self._settings.at_version(RANKING, version or newest)
        if document is None:
            raise NotFound(f"version: ranking version {version} is not kept; newest is {newest}")
        return RankingConfig.from_document(document, version or newest)

    async def set_ranking(
        self, config: RankingConfig, expected_version: int | None = None
    ) -> RankingConfig:
        """Validates and puts in force. Raises InvalidField, FailedPrecondition (another version is
        newest).
        """
        config.validate()
        await self._validation.observe_node()
        document = config.to_document()
        version = await self._settings.put(
            RANKING, document, self._clock.now_ms(), expected_version
        )
        return RankingConfig.from_document(document, version)

    async def get_settings(self) -> HotSettings:
        """The hot settings in force."""
        await self._validation.observe_node()
        return self._hot.read()

    async def set_settings(self, **changes: Unpack[HotChanges]) -> HotSettings:
        """Changes the named hot settings. Raises InvalidField."""
        await self._validation.observe_node()
        return await self._hot.change(changes, self._clock.now_ms())

    async def dead_letters(self, limit: int = 0) -> list[DeadLetter]:
        """Jobs that failed for good, oldest first."""
        if not 0 <= limit <= LIST_PAGE_MAX:
            raise InvalidField("limit", str(limit), f"must be 1 to {LIST_PAGE_MAX}, or 0 for 100")
        return await self._queue.dead_letters(limit or DEAD_LETTERS_DEFAULT)

    async def replay(self, job_ids: list[int]) -> int:
        """Puts dead letters back; an empty list means all. The number put back."""
        for job_id in job_ids:
            check_id("job_ids", job_id)
        return await self._queue.replay(job_ids, self._clock.now_ms())

    async def rebuild_feed(self, user_id: int) -> None:
        """Queues the refill of the user's stored feed."""
        check_id("user_id", user_id)
        await self._feeds.request_rebuild(user_id, self._clock.now_ms())

    async def lanes(self) -> dict[Lane, tuple[QueueLag, bool]]:
        """Per lane its lag, and whether it is paused."""
        await self._validation.observe_node()
        hot = self._hot.read()
        lags = await self._queue.lag(self._clock.now_ms())
        return {
            lane: (lag, hot.fanout_paused or (lane is Lane.REST and hot.rest_lane_paused))
            for lane, lag in lags.items()
        }

    async def findings(self) -> list[Finding]:
        """What was found out about all that the engine needs, at most FINDINGS_KEPT_S ago. Callers
        that ask meanwhile get the same findings.
        """
        task = self._diagnosing
        if task is None or (task.done() and self._age_s() >= FINDINGS_KEPT_S):
            task = self._diagnosing = asyncio.create_task(self._diagnose(), name="diagnosis")
        return await asyncio.shield(task)

    def _age_s(self) -> float:
        return self._clock.monotonic() - self._diagnosed_s

    async def _diagnose(self) -> list[Finding]:
        found = await self._diagnosis()
        self._diagnosed_s = self._clock.monotonic()
        return found

    async def close(self) -> None:
        """Ends a diagnosis that is under way."""
        if self._diagnosing is not None:
            self._diagnosing.cancel()
            await asyncio.wait([self._diagnosing])

    def backlog(self) -> int:
        """Deliveries that are durable but not merged yet."""
        return self._feeds.backlog()
