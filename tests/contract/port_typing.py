"""Each adapter is a port, as mypy sees it; nothing here runs (see test_port_typing).

An adapter that is added joins here, beside its engine in the contract suites.
"""

from __future__ import annotations

from feedcore.adapters.cluster.cache_validation import ClusterCacheValidation
from feedcore.adapters.cluster.page_cache import ClusterPageCache
from feedcore.adapters.cluster.store import ClusterStore
from feedcore.adapters.collaborators import (
    CollaboratorContentSource,
    CollaboratorGraphSource,
    CollaboratorRanker,
)
from feedcore.adapters.common.page_cache import NoPageCache
from feedcore.adapters.cql.counting.signals import CqlSignalStore
from feedcore.adapters.cql.stores.contents import CqlContentSource
from feedcore.adapters.cql.stores.feeds import CqlFeedStore
from feedcore.adapters.cql.stores.graph import CqlGraphSource
from feedcore.adapters.cql.stores.posts import CqlPostStore
from feedcore.adapters.cql.stores.preferences import CqlPreferenceStore
from feedcore.adapters.cql.stores.resident import CqlResidentSource
from feedcore.adapters.cql.stores.settings import CqlSettingsStore
from feedcore.adapters.embedded.cache_validation import LocalCacheValidation
from feedcore.adapters.embedded.feeds import EmbeddedFeedStore
from feedcore.adapters.embedded.graph import EmbeddedGraphSource
from feedcore.adapters.embedded.posts import EmbeddedContentSource, EmbeddedPostStore
from feedcore.adapters.embedded.preferences import EmbeddedPreferenceStore
from feedcore.adapters.embedded.queue import EmbeddedFanoutQueue
from feedcore.adapters.embedded.resident import EmbeddedResidentSource
from feedcore.adapters.embedded.settings import EmbeddedSettingsStore
from feedcore.adapters.embedded.signals import EmbeddedSignalStore
from feedcore.adapters.embedded.store import EmbeddedStore
from feedcore.adapters.kafka.events import KafkaEventSink
from feedcore.adapters.kafka.queue import KafkaQueue
from feedcore.adapters.redis.limiter import RateLimiter
from feedcore.compose import Store
from feedcore.ports import (
    CacheValidation,
    ContentSource,
    EventSink,
    FanoutQueue,
    FeedStore,
    GraphSource,
    PageCache,
    PostStore,
    PreferenceStore,
    Ranker,
    SettingsStore,
    SignalStore,
)
from feedcore.ports.limiter import Limiter
from feedcore.ports.resident import ResidentSource
from tests.contract.engine import Ports


def stores(embedded: EmbeddedStore, cluster: ClusterStore) -> list[Store]:
    return [embedded, cluster]


def ports(embedded: EmbeddedStore, cluster: ClusterStore) -> list[Ports]:
    return [embedded, cluster]


def feeds(embedded: EmbeddedFeedStore, cql: CqlFeedStore) -> list[FeedStore]:
    return [embedded, cql]


def posts(embedded: EmbeddedPostStore, cql: CqlPostStore) -> list[PostStore]:
    return [embedded, cql]


def contents(
    embedded: EmbeddedContentSource, cql: CqlContentSource, outside: CollaboratorContentSource
) -> list[ContentSource]:
    return [embedded, cql, outside]


def graphs(
    embedded: EmbeddedGraphSource, cql: CqlGraphSource, outside: CollaboratorGraphSource
) -> list[GraphSource]:
    return [embedded, cql, outside]


def preferences(
    embedded: EmbeddedPreferenceStore, cql: CqlPreferenceStore
) -> list[PreferenceStore]:
    return [embedded, cql]


def signals(embedded: EmbeddedSignalStore, cql: CqlSignalStore) -> list[SignalStore]:
    return [embedded, cql]


def queues(embedded: EmbeddedFanoutQueue, kafka: KafkaQueue) -> list[FanoutQueue]:
    return [embedded, kafka]


def settings(embedded: EmbeddedSettingsStore, cql: CqlSettingsStore) -> list[SettingsStore]:
    return [embedded, cql]


def residents(embedded: EmbeddedResidentSource, cql: CqlResidentSource) -> list[ResidentSource]:
    return [embedded, cql]


def validations(
    embedded: LocalCacheValidation, cluster: ClusterCacheValidation
) -> list[CacheValidation]:
    return [embedded, cluster]


def page_caches(none: NoPageCache, cluster: ClusterPageCache) -> list[PageCache]:
    return [none, cluster]


def sinks(kafka: KafkaEventSink) -> list[EventSink]:
    return [kafka]


def limiters(redis: RateLimiter) -> list[Limiter]:
    return [redis]


def rankers(outside: CollaboratorRanker) -> list[Ranker]:
    return [outside]
