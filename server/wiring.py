"""Composition root of one API worker: store -> services -> handlers -> interceptors -> transport.

The only place that knows all of them. Everything that is opened here is closed by `Api.close`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from feedcore.clock import Clock
from feedcore.config import CacheSettings, FanoutSettings, Settings
from feedcore.domain.ids import time_ms
from feedcore.domain.receipt import Origin
from feedcore.errors import ClockWentBack
from feedcore.limits import CLOCK_AHEAD_MAX_MS
from feedcore.observe import logs
from feedcore.outside import Outside
from feedcore.ports.events import EventSink
from feedcore.profiles import open_store
from feedcore.services.engine import Engine, build_engine
from feedcore.services.hot import HotSettings
from feedcore.services.resident_budget import CacheBudget
from feedcore_pb.collaborators.v1 import content_pb2, graph_pb2, ranking_pb2
from feedcore_pb.v1 import admin_pb2, feed_pb2, publish_pb2
from feedcore_server.dispatch import Dispatcher, Interceptor
from feedcore_server.handlers.admin import AdminHandlers, AdminServices
from feedcore_server.handlers.content import ContentHandlers
from feedcore_server.handlers.feed import FeedHandlers
from feedcore_server.handlers.feed_counters import FeedCounters
from feedcore_server.handlers.graph import GraphHandlers
from feedcore_server.handlers.health import HealthHandlers
from feedcore_server.handlers.publish import PublishHandlers
from feedcore_server.handlers.ranking import RankingHandlers
from feedcore_server.handlers.reflection import V1_SERVICE, ReflectionHandlers
from feedcore_server.interceptors.logging import logged
from feedcore_server.interceptors.metrics import measured
from feedcore_server.interceptors.ratelimit import limited
from feedcore_server.interceptors.tracing import traced
from feedcore_server.limits import LAME_DUCK_S
from feedcore_server.registry import FastHandler, Registry

if TYPE_CHECKING:
    from feedcore._native.feed.draft import Draft
    from feedcore.profiles import AnyStore

MEGABYTE = 1 << 20
SHAPE_BYTES = 4  # of a draft's shape: page size and view; the cursor follows


class Stops(Protocol):
    """What a drain needs of a transport."""

    async def stop(self, grace_s: float) -> None: ...


@dataclass(frozen=True, slots=True)
class Api:
    """One worker's side of the server, ready to be carried by a transport."""

    store: AnyStore
    outside: Outside
    engine: Engine
    dispatcher: Dispatcher
    health: HealthHandlers

    async def drain(self, transport: Stops, grace_s: float) -> None:
        """NOT_SERVING first, so that balancers look elsewhere; then no new calls; then grace."""
        self.health.end()
        await asyncio.sleep(min(LAME_DUCK_S, grace_s))
        await transport.stop(grace_s)

    async def close(self) -> None:
        """Closes the store; after the transport has stopped."""
        if self.engine.resident is not None:
            await self.engine.resident.close()
        await self.outside.close()
        await self.store.close()


def budget_of(cache: CacheSettings) -> CacheBudget:
    """Bytes a worker."""
    return CacheBudget(cache.pages_mb * MEGABYTE, cache.resident_mb * MEGABYTE)


def hot_start(fanout: FanoutSettings) -> HotSettings:
    """Hot settings until an operator changes them."""
    return HotSettings(
        push_threshold=fanout.push_threshold,
        hysteresis_percent=fanout.hysteresis_percent,
        rest_lane_paused=fanout.rest_lane_paused,
        fanout_paused=fanout.paused,
    )


async def open_worker(
    settings: Settings, node: int, clock: Clock, waiting: Callable[[str], None]
) -> Api:
    """Opens the store and builds an API worker whose ids are of `node`; `waiting` is told what it
    waits for. Raises StoreError, ClockWentBack."""
    store = await open_store(settings, clock, node=node, fanout=False, waiting=waiting)
    outside = Outside(settings.collaborators, clock)
    try:
        await _wait_for_clock(store, clock)
        engine = build_engine(
            store,
            hot_start(settings.fanout),
            clock,
            region=settings.ids.region,
            node=node,
            budget=budget_of(settings.cache),
            collaborators=outside.collaborators,
        )
    except BaseException:
        await outside.close()
        await store.close()
        raise
    health = HealthHandlers()
    limits_callers = settings.server.caller_rate > 0
    registry = build_registry(engine, health, clock, store.events, batches=not limits_callers)
    chain = interceptors(store.secret, clock)
    if limits_callers and store.limiter is not None:
        chain.append(limited(store.limiter, settings.server.caller_rate))
    return Api(store, outside, engine, Dispatcher(registry, chain), health)


def interceptors(secret: bytes, clock: Clock) -> list[Interceptor]:
    """What happens around every call, outermost first."""
    return [measured(clock), traced(), logged(clock, logs.UserHash(secret))]


def build_registry(
    engine: Engine,
    health: HealthHandlers,
    clock: Clock,
    events: EventSink | None = None,
    *,
    batches: bool = True,
) -> Registry:
    """The method table of all services. `batches`: calls may be answered many at once, past the
    interceptors.
    """
    admin = AdminServices(engine.admin, engine.explain, engine.audit, engine.importing, clock)
    reflection = ReflectionHandlers()
    registry = Registry()
    feed = FeedHandlers(engine.feed, engine.preferences, engine.resident, events, clock)
    if events is not None and engine.resident is not None and engine.resident.batched is not None:
        engine.resident.batched.on_page = page_teller(engine, events, clock)
    publish = PublishHandlers(engine.publish, events)
    for module, name, handlers in (
        (feed_pb2, "FeedService", feed),
        (publish_pb2, "PublishService", publish),
        (admin_pb2, "AdminService", AdminHandlers(admin)),
        (graph_pb2, "GraphService", GraphHandlers(engine.graph)),
        (content_pb2, "ContentService", ContentHandlers(engine.publish)),
        (ranking_pb2, "RankingService", RankingHandlers(engine.feed.viewers)),
    ):
        fast = fast_feed(engine) if handlers is feed else None
        batched = feed.batched() if batches and handlers is feed else None
        service = module.DESCRIPTOR.services_by_name[name]
        registry.add_service(service, handlers.table(), fast=fast, batched=batched)
    health.add(registry.services())
    health_service = health_pb2.DESCRIPTOR.services_by_name["Health"]
    registry.add_service(health_service, health.table(), fast=health.fast_table(), prefix="Health")
    reflection_service = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]
    registry.add_service(reflection_service, reflection.table())
    registry.add_service(reflection_service, reflection.table(), name=V1_SERVICE)
    reflection.set_services(registry.services())
    return registry


def page_teller(
    engine: Engine, events: EventSink, clock: Clock
) -> Callable[[Draft, Sequence[int]], None]:
    """Tells the sink of pages that compiled code has made or kept: of a followed feed, by the
    ranking in force."""
    ranking = engine.feed.viewers.ranking

    def tell(draft: Draft, content_ids: Sequence[int]) -> None:
        scrolled = bool(draft.shape[SHAPE_BYTES:])
        events.page_served(
            draft.user_id,
            content_ids,
            Origin.STORED,
            ranking().version,
            scrolled,
            clock.now_ms(),
        )

    return tell


def fast_feed(engine: Engine) -> dict[str, FastHandler]:
    """Fast handlers of FeedService; none without what they need.

    They answer at once, so only for a store that need not be asked first whether what is kept is
    current.
    """
    if engine.resident is None:
        return {}
    if not engine.resident.local:
        engine.resident.on_tick = FeedCounters(engine.resident, {}).publish
        return {}
    try:
        from feedcore._native.feed.fastfeed import FastCheckNew, FastGetFeed, Gate
    except ImportError:  # built without libnghttp2: grpc.aio serves, and has no fast handlers
        engine.resident.on_tick = FeedCounters(engine.resident, {}).publish
        return {}
    maker, gate = engine.resident.maker, Gate()
    fast = {"GetFeed": FastGetFeed(maker, gate), "CheckNew": FastCheckNew(maker, gate)}
    engine.resident.on_tick = FeedCounters(engine.resident, fast).publish
    return fast


async def _wait_for_clock(store: AnyStore, clock: Clock) -> None:
    """Waits until the clock is past the newest id stored: a restarted worker never gives an id
    twice.

    Ids may run ahead of the clock by CLOCK_AHEAD_MAX_MS (a burst, or a clock that was set back a
    little); more is a broken clock.
    """
    newest_ms = time_ms(await store.posts.newest_content_id())
    ahead_ms = newest_ms - clock.now_ms()
    if ahead_ms > CLOCK_AHEAD_MAX_MS:
        raise ClockWentBack(
            f"clock: {ahead_ms} ms behind the newest post stored; at most {CLOCK_AHEAD_MAX_MS} ms"
        )
    if ahead_ms >= 0:
        await asyncio.sleep((ahead_ms + 1) / 1_000)
