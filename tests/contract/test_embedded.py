"""The embedded engine keeps every contract."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from feedcore.adapters.embedded import EmbeddedStore
from feedcore.clock import ManualClock
from tests.contract.engine import START_MS
from tests.contract.suite_feeds import FeedContract, QueueContract
from tests.contract.suite_graph import GraphContract
from tests.contract.suite_posts import PostContract
from tests.contract.suite_user import PreferenceContract, SettingsContract, SignalContract


class EmbeddedEngine:
    """Two openings of one directory; the first merges."""

    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock(START_MS)
        self.store = EmbeddedStore.open(folder, self.clock, writer_role=True, merge_thread=False)
        self.other = EmbeddedStore.open(folder, self.clock)

    async def settle(self) -> None:
        """Merges what was delivered, and compacts."""
        await self.store.merge_all()
        assert self.store.merger is not None
        while self.store.merger.compact_once(quiet=True):
            pass


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[EmbeddedEngine]:
    """An empty store."""
    opened = EmbeddedEngine(tmp_path / "data")
    yield opened
    await opened.other.close()
    await opened.store.close()


class TestEmbeddedFeeds(FeedContract):
    """See the suite."""


class TestEmbeddedQueue(QueueContract):
    """See the suite."""


class TestEmbeddedPosts(PostContract):
    """See the suite."""


class TestEmbeddedGraph(GraphContract):
    """See the suite."""


class TestEmbeddedPreferences(PreferenceContract):
    """See the suite."""


class TestEmbeddedSignals(SignalContract):
    """See the suite."""


class TestEmbeddedSettings(SettingsContract):
    """See the suite."""
