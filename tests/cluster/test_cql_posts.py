"""Posts and signals on Cassandra keep the contracts, and what only a cluster can break."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator

import pytest

from feedcore.clock import ManualClock
from tests.contract.engine import START_MS
from tests.contract.suite_posts import PostContract
from tests.contract.suite_user import SignalContract
from tests.support.cqlposts import PostsEngine, opened
from tests.support.cqlusers import drop_keyspace, make_keyspace


@pytest.fixture(scope="module")
def keyspace() -> Iterator[str]:
    """One for the tests of this file."""
    name = f"cqlposts_{os.getpid()}"
    asyncio.run(make_keyspace(name))
    yield name
    asyncio.run(drop_keyspace(name))


@pytest.fixture
async def engine(keyspace: str) -> AsyncIterator[PostsEngine]:
    """An empty store."""
    async with opened(keyspace, ManualClock(START_MS)) as made:
        yield made


class TestCqlPosts(PostContract):
    """See the suite."""


class TestCqlSignals(SignalContract):
    """See the suite."""
