"""The users part on Cassandra keeps the contracts, and what only a cluster can break."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator

import pytest

from feedcore.clock import ManualClock
from tests.contract.engine import START_MS
from tests.contract.suite_feeds import FeedContract
from tests.contract.suite_graph import GraphContract
from tests.contract.suite_user import PreferenceContract, SettingsContract
from tests.support.cqlusers import UsersEngine, drop_keyspace, make_keyspace, opened


@pytest.fixture(scope="module")
def keyspace() -> Iterator[str]:
    """One for the tests of this file."""
    name = f"cqlusers_{os.getpid()}"
    asyncio.run(make_keyspace(name))
    yield name
    asyncio.run(drop_keyspace(name))


@pytest.fixture
async def engine(keyspace: str) -> AsyncIterator[UsersEngine]:
    """An empty store."""
    async with opened(keyspace, ManualClock(START_MS)) as made:
        yield made


class TestCqlFeeds(FeedContract):
    """See the suite."""


class TestCqlGraph(GraphContract):
    """See the suite."""


class TestCqlPreferences(PreferenceContract):
    """See the suite."""


class TestCqlSettings(SettingsContract):
    """See the suite."""
