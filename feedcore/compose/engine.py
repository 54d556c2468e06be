"""Which service takes which port: the services of one process over one store.

Invariant: every service of an engine, and its fan-out worker, asks the same graph. Not for opening
stores: that is `compose.opening`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from feedcore import native
from feedcore.clock import Clock
from feedcore.compose.collaborators import BUILT_IN, Collaborators
from feedcore.domain.ids import IdGenerator
from feedcore.ports import (
    CacheValidation,
    ContentSource,
    FanoutQueue,
    FeedStore,
    GraphSource,
    PageCache,
    PostStore,
    PreferenceStore,
    SettingsStore,
    SignalStore,
)
from feedcore.ports.events import EventSink
from feedcore.ports.limiter import Limiter
from feedcore.ports.resident import ResidentSource
from feedcore.services.admin import AdminService, Diagnosis, finds_nothing
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
from feedcore.workers.fanout import FanoutWorker
from feedcore.workers.runner import FanoutProcess

if TYPE_CHECKING:
    from feedcore.adapters.embedded.merger import Merger
    from feedcore.services.resident import ResidentFeed


class Store(Protocol):
    """What a profile provides: one object for each port, and a secret that signs cursors."""

    @property
    def queue(self) -> FanoutQueue: ...
    @property
    def feeds(self) -> FeedStore: ...
    @property
    def posts(self) -> PostStore: ...
    @property
    def validation(self) -> CacheValidation: ...
    @property
    def contents(self) -> ContentSource: ...
    @property
    def graph(self) -> GraphSource: ...
    @property
    def preferences(self) -> PreferenceStore: ...
    @property
    def signals(self) -> SignalStore: ...
    @property
    def settings(self) -> SettingsStore: ...
    @property
    def resident(self) -> ResidentSource: ...
    @property
    def page_cache(self) -> PageCache: ...
    @property
    def epochs(self) -> native.Epochs: ...
    @property
    def secret(self) -> bytes: ...
    @property
    def events(self) -> EventSink | None: ...
    @property
    def limiter(self) -> Limiter | None: ...
    @property
    def merger(self) -> Merger | None: ...

    async def counts(self) -> dict[str, int]:
        """Figures for an operator, by name."""

    async def upkeep(self, now_ms: int) -> None:
        """What the fan-out process does about once a minute."""

    def fault(self) -> str:
        """What is wrong with this machine's part of the store and concerns every caller, with the
        remedy; "" if nothing is. Cheap: asked once a second.
        """

    def note_failure(self, error: BaseException) -> None:
        """Of a call that failed: what it says of the store is in `fault` from then on."""

    async def repair(self, graph: GraphSource, now_ms: int) -> float:
        """A step of deriving again what is damaged of the stored feeds, if anything is; how many
        seconds to wait before the next. For the process that fans out.
        """

    async def merge_all(self) -> int:
        """Stores everything that was delivered; how many items. For the process that fans out."""

    async def close(self) -> None:
        """Writes what is buffered, lets everything go."""


@dataclass(frozen=True, slots=True)
class Engine:
    """The services of one process, and the store below them."""

    store: Store
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
    fanout: FanoutWorker  # idle, unless this process fans out
    background: FanoutProcess

    async def close(self) -> None:
        """Ends what the engine does behind calls; the store and the collaborators stay open."""
        await self.admin.close()
        if self.resident is not None:
            await self.resident.close()


def compose_over(
    store: Store,
    hot_start: HotSettings,
    clock: Clock,
    *,
    region: int = 0,
    node: int = 0,
    budget: CacheBudget | None = None,
    collaborators: Collaborators = BUILT_IN,
    diagnosis: Diagnosis = finds_nothing,
) -> Engine:
    """An engine over an open store, which the caller closes after the engine. `node` must differ
    between all processes that publish. `budget`: what a process that serves feeds may keep in
    memory. With collaborators pages are not made by compiled code, which knows the store and the
    formula only. `diagnosis` finds out about what is behind the store, for status.
    """
    contents = collaborators.contents or store.contents
    graph = collaborators.graph or store.graph
    settings, validation = store.settings, store.validation
    hot = Hot(settings, hot_start)
    policy = PolicyReview(settings, validation, hot)
    fanout = FanoutWorker(store.queue, store.feeds, graph, store.posts, validation, hot, clock)
    feed = FeedService(
        store.feeds,
        store.posts,
        contents,
        graph,
        store.preferences,
        store.signals,
        settings,
        validation,
        store.secret,
        clock,
        collaborators.ranker,
    )
    return Engine(
        store=store,
        feed=feed,
        publish=PublishService(store.posts, graph, contents, IdGenerator(region, node), clock),
        preferences=PreferenceService(store.preferences, store.signals, clock),
        graph=GraphService(graph, clock, store.feeds if collaborators.graph else None),
        admin=AdminService(
            settings, store.queue, store.feeds, validation, hot, store.counts, clock, diagnosis
        ),
        explain=ExplainService(feed, store.feeds, store.posts, store.signals, validation, clock),
        audit=AuditService(feed, store.posts, contents, graph, validation, clock),
        importing=ImportService(
            store.posts, graph, store.preferences, store.signals, policy, clock, region
        ),
        policy=policy,
        hot=hot,
        resident=_resident(store, feed, clock, budget if collaborators == BUILT_IN else None),
        fanout=fanout,
        background=FanoutProcess(
            fanout,
            store.signals,
            policy,
            store.upkeep,
            lambda now_ms: store.repair(graph, now_ms),
            store.merge_all,
            clock,
        ),
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
        store.page_cache,
        store.epochs,
        store.preferences,
        store.signals,
        store.secret,
        clock,
        budget,
    )
