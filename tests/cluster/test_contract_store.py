"""ClusterStore keeps every contract that the embedded engine keeps: two nodes of one cluster, over
real Cassandra, Redis and Kafka.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from feedcore.clock import ManualClock
from tests.contract.engine import START_MS
from tests.contract.suite_content import ContentContract
from tests.contract.suite_feeds import FeedContract, QueueContract
from tests.contract.suite_graph import GraphContract
from tests.contract.suite_page_cache import PageCacheContract
from tests.contract.suite_posts import PostContract
from tests.contract.suite_resident import ResidentContract
from tests.contract.suite_user import PreferenceContract, SettingsContract, SignalContract
from tests.contract.suite_validation import CacheValidationContract
from tests.support.clusterengine import Addresses, ClusterEngine, opened


@pytest.fixture
async def engine(
    cluster_addresses: Addresses, cluster_keyspace: str
) -> AsyncIterator[ClusterEngine]:
    """An empty store, opened twice."""
    async with opened(cluster_addresses, cluster_keyspace, ManualClock(START_MS)) as made:
        yield made


class TestClusterFeeds(FeedContract):
    """See the suite."""


class TestClusterQueue(QueueContract):
    """See the suite."""


class TestClusterPosts(PostContract):
    """See the suite."""


class TestClusterContents(ContentContract):
    """See the suite."""


class TestClusterGraph(GraphContract):
    """See the suite."""


class TestClusterPreferences(PreferenceContract):
    """See the suite."""


class TestClusterSignals(SignalContract):
    """See the suite."""


class TestClusterSettings(SettingsContract):
    """See the suite."""


class TestClusterResident(ResidentContract):
    """See the suite."""


class TestClusterCacheValidation(CacheValidationContract):
    """See the suite."""


class TestClusterPageCache(PageCacheContract):
    """See the suite."""
