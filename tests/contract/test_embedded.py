"""The embedded engine keeps every contract."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from feedcore.adapters.embedded import EmbeddedStore
from feedcore.clock import ManualClock
from feedcore.ports import FanoutJob, Lane
from tests.contract.engine import EVERYTHING, START_MS, Capability
from tests.contract.suite_content import ContentContract
from tests.contract.suite_feeds import FeedContract, QueueContract
from tests.contract.suite_graph import GraphContract
from tests.contract.suite_overlay import OverlayContract
from tests.contract.suite_page_cache import PageCacheContract
from tests.contract.suite_posts import PostContract
from tests.contract.suite_resident import ResidentContract
from tests.contract.suite_user import PreferenceContract, SettingsContract, SignalContract
from tests.contract.suite_validation import CacheValidationContract


class EmbeddedEngine:
    """Two openings of one directory; the first merges."""

    capabilities = EVERYTHING - {Capability.SHARED_PAGES}

    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock(START_MS)
        self.store = EmbeddedStore.open(folder, self.clock, writer_role=True, merge_thread=False)
        self.other = EmbeddedStore.open(folder, self.clock)

    async def close(self) -> None:
        """Both."""
        await self.other.close()
        await self.store.close()

    async def settle(self) -> None:
        """Merges what was delivered, and compacts."""
        await self.store.merge_all()
        assert self.store.merger is not None
        while self.store.merger.compact_once(quiet=True):
            pass

    async def jobs(self, lanes: Sequence[Lane], limit: int, at_least: int = 1) -> list[FanoutJob]:
        """One claim: what is committed can be claimed."""
        jobs = await self.store.queue.claim(tuple(lanes), limit)
        assert len(jobs) >= at_least, jobs
        return jobs

    async def mark_inactive(self, now_ms: int, limit: int) -> int:
        """As the fan-out process does about once a minute."""
        return await self.store.graph.mark_inactive(now_ms, limit)

    async def load_follows(self, edges: Sequence[tuple[int, int]]) -> None:
        """See the protocol."""
        await self.store.graph.import_follows(edges, self.clock.now_ms())

    async def write_seen(self) -> None:
        """At once, not behind."""
        await self.store.preferences.write_seen()


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[EmbeddedEngine]:
    """An empty store."""
    opened = EmbeddedEngine(tmp_path / "data")
    yield opened
    await opened.close()


class TestEmbeddedFeeds(FeedContract):
    """See the suite."""


class TestEmbeddedQueue(QueueContract):
    """See the suite."""


class TestEmbeddedOverlay(OverlayContract):
    """See the suite."""


class TestEmbeddedPosts(PostContract):
    """See the suite."""


class TestEmbeddedContents(ContentContract):
    """See the suite."""


class TestEmbeddedGraph(GraphContract):
    """See the suite."""


class TestEmbeddedPreferences(PreferenceContract):
    """See the suite."""


class TestEmbeddedSignals(SignalContract):
    """See the suite."""


class TestEmbeddedSettings(SettingsContract):
    """See the suite."""


class TestEmbeddedResident(ResidentContract):
    """See the suite."""


class TestEmbeddedCacheValidation(CacheValidationContract):
    """See the suite."""


class TestEmbeddedPageCache(PageCacheContract):
    """See the suite."""
