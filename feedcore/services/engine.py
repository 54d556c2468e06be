"""All services of one process over one store: the only place that knows which service needs which
port.

Used by the server's workers, by the fan-out process and by offline tools, so that all run the same
code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from feedcore import native
from feedcore.clock import Clock
from feedcore.domain.ids import IdGenerator
from feedcore.ports import (
    CacheValidation,
    ContentSource,
    FanoutQueue,
    FeedStore,
    GraphSource,
    PostStore,
    PreferenceStore,
    Ranker,
    SettingsStore,
    SignalStore,
)
from feedcore.ports.resident import ResidentSource
from feedcore.services.admin import AdminService
from feedcore.services.audit import AuditService
from feedcore.services.explain import ExplainService
from feedcore.services.feed import FeedService
from feedcore.services.graph import GraphService
from feedcore.services.hot import Hot, HotSettings
from feedcore.services.importing import ImportService
from feedcore.services.policy import PolicyReview
from feedcore.services.preferences import PreferenceService
from feedcore.services.publish import PublishService
from feedcore.services.resident_budget import CacheBudget

if TYPE_CHECKING:
    from feedcore.services.resident import ResidentFeed


class Store(Protocol):
    """What a profile provides: one object for each port, and a secret that signs cursors."""

    @property
    def feeds(self) -> FeedStore: ...
    @property
    def posts(self) -> PostStore: ...
    @property
    def contents(self) -> ContentSource: ...
    @property
    def graph(self) -> GraphSource: ...
    @property
    def preferences(self) -> PreferenceStore: ...
    @property
    def signals(self) -> SignalStore: ...
    @property
    def queue(self) -> FanoutQueue: ...
    @property
    def settings(self) -> SettingsStore: ...
    @property
    def resident(self) -> ResidentSource: ...
    @property
    def validation(self) -> CacheValidation: ...
    @property
    def epochs(self) -> native.Epochs: ...
    @property
    def secret(self) -> bytes: ...

    async def counts(self) -> dict[str, int]:
        """Figures for an operator, by name."""


@dataclass(frozen=True, slots=True)
class Engine:
    """The services of one process."""

    feed: FeedService
    publish: PublishService
    preferences: PreferenceService
    graph: GraphService
    admin: AdminService
    explain: ExplainService
    audit: AuditService
    importing: ImportService
    policy: PolicyReview
    hot: Hot
    resident: ResidentFeed | None  # None without compiled modules, and where nothing is served


class Collaborators(NamedTuple):
    """What other services do in place of the engine; None: the store's own, or the formula."""

    contents: ContentSource | None = None
    graph: GraphSource | None = None
    ranker: Ranker | None = None


BUILT_IN = Collaborators()


def build_engine(
    store: Store,
    hot_start: HotSettings,
    clock: Clock,
    *,
    region: int = 0,
    node: int = 0,
    budget: CacheBudget | None = None,
    collaborators: Collaborators = BUILT_IN,
) -> Engine:
    """Wires the services. `node` must differ between all processes that publish. `budget`: what a
    process that serves feeds may keep in memory. With collaborators pages are not made by compiled
    code, which knows the store and the formula only.
    """
    contents = collaborators.contents or store.contents
    graph = collaborators.graph or store.graph
    hot = Hot(store.settings, hot_start)
    policy = PolicyReview(store.settings, store.validation, hot)
    feed = FeedService(
        store.feeds,
        store.posts,
        contents,
        graph,
        store.preferences,
        store.signals,
        store.settings,
        store.validation,
        store.secret,
        clock,
        collaborators.ranker,
    )
    id_generator = IdGenerator(region, node, clock.now_ms)
    return Engine(
        feed=feed,
        publish=PublishService(store.posts, graph, contents, id_generator, clock),
        preferences=PreferenceService(store.preferences, store.signals, clock),
        graph=GraphService(graph, clock),
        admin=AdminService(
            store.settings,
            store.queue,
            store.feeds,
            store.validation,
            hot,
            store.counts,
            clock,
        ),
        explain=ExplainService(
            feed, store.feeds, store.posts, store.signals, store.validation, clock
        ),
        audit=AuditService(feed, store.posts, graph, store.validation, clock),
        importing=ImportService(
            store.posts,
            graph,
            store.preferences,
            store.signals,
            policy,
            clock,
            region,
        ),
        policy=policy,
        hot=hot,
        resident=_resident(store, feed, clock, budget if collaborators == BUILT_IN else None),
    )


def _resident(
    store: Store, feed: FeedService, clock: Clock, budget: CacheBudget | None
) -> ResidentFeed | None:
    if budget is None or not native.COMPILED:
        return None
    from feedcore.services.resident import ResidentFeed

    return ResidentFeed(
        feed,
        store.resident,
        store.validation,
        store.epochs,
        store.preferences,
        store.signals,
        store.secret,
        clock,
        budget,
    )
