"""Maps an engine to gRPC methods: services -> handlers -> interceptors -> method table.

Not for opening anything: `feedcore.compose` opens the engine, and `processes` the transport.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from feedcore.clock import Clock
from feedcore.compose import Engine
from feedcore.config import ServerSettings
from feedcore.domain.receipt import Origin
from feedcore.observe import logs
from feedcore.ports.events import EventSink
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
from feedcore_server.interceptors.failures import remembered
from feedcore_server.interceptors.logging import logged
from feedcore_server.interceptors.metrics import measured
from feedcore_server.interceptors.ratelimit import limited
from feedcore_server.interceptors.tracing import traced
from feedcore_server.limits import LAME_DUCK_S
from feedcore_server.registry import FastHandler, Registry

if TYPE_CHECKING:
    from feedcore._native.feed.draft import Draft

SHAPE_BYTES = 4  # of a draft's shape: page size and view; the cursor follows


class Stops(Protocol):
    """What a drain needs of a transport."""

    async def stop(self, grace_s: float) -> None: ...


@dataclass(frozen=True, slots=True)
class Api:
    """One worker's side of the server, ready to be carried by a transport."""

    dispatcher: Dispatcher
    health: HealthHandlers

    async def drain(self, transport: Stops, grace_s: float) -> None:
        """NOT_SERVING first, so that balancers look elsewhere; then no new calls; then grace."""
        self.health.end()
        await asyncio.sleep(min(LAME_DUCK_S, grace_s))
        await transport.stop(grace_s)


def wire(engine: Engine, settings: ServerSettings, clock: Clock) -> Api:
    """The methods of an API worker, with what happens around each call."""
    store = engine.store
    health = HealthHandlers()
    limits_callers = settings.caller_rate > 0
    registry = build_registry(engine, health, clock, batches=not limits_callers)
    chain = interceptors(store.secret, clock)
    if limits_callers and store.limiter is not None:
        chain.append(limited(store.limiter, settings.caller_rate))
    chain.append(remembered(store.note_failure))
    return Api(Dispatcher(registry, chain), health)


def interceptors(secret: bytes, clock: Clock) -> list[Interceptor]:
    """What happens around every call, outermost first."""
    return [measured(clock), traced(), logged(clock, logs.UserHash(secret))]


def wire_collaborators(engine: Engine, clock: Clock) -> Api:
    """The methods of the collaborators' server: the three contracts, and nothing of our own."""
    registry, health = Registry(), HealthHandlers()
    for service, handlers in _collaborators(engine):
        registry.add_service(service, handlers.table())
    add_standard(registry, health)
    return Api(Dispatcher(registry, interceptors(engine.store.secret, clock)), health)


def build_registry(
    engine: Engine, health: HealthHandlers, clock: Clock, *, batches: bool
) -> Registry:
    """The method table of all services. `batches`: calls may be answered many at once, past the
    interceptors.
    """
    events = engine.store.events
    store_fault = engine.store.fault
    admin = AdminServices(
        engine.admin, engine.explain, engine.audit, engine.importing, clock, store_fault
    )
    registry = Registry()
    feed = FeedHandlers(engine.feed, engine.preferences, engine.resident, events, clock)
    if events is not None and engine.resident is not None and engine.resident.batched is not None:
        engine.resident.batched.on_page = page_teller(engine, events, clock)
    service = feed_pb2.DESCRIPTOR.services_by_name["FeedService"]
    batched = feed.batched() if batches else None
    registry.add_service(service, feed.table(), fast=fast_feed(engine), batched=batched)
    service = publish_pb2.DESCRIPTOR.services_by_name["PublishService"]
    registry.add_service(service, PublishHandlers(engine.publish, events).table())
    service = admin_pb2.DESCRIPTOR.services_by_name["AdminService"]
    registry.add_service(service, AdminHandlers(admin).table())
    for service, handlers in _collaborators(engine):
        registry.add_service(service, handlers.table())
    add_standard(registry, health)
    return registry


def _collaborators(engine: Engine) -> list[tuple[ServiceDescriptor, Any]]:
    """The collaborators' contracts, as the engine itself answers them."""
    graph = graph_pb2.DESCRIPTOR.services_by_name["GraphService"]
    content = content_pb2.DESCRIPTOR.services_by_name["ContentService"]
    ranking = ranking_pb2.DESCRIPTOR.services_by_name["RankingService"]
    return [
        (graph, GraphHandlers(engine.graph)),
        (content, ContentHandlers(engine.publish)),
        (ranking, RankingHandlers(engine.feed.viewers)),
    ]


def add_standard(registry: Registry, health: HealthHandlers) -> None:
    """Health and reflection of all services that are in the table."""
    reflection = ReflectionHandlers()
    health.add(registry.services())
    health_service = health_pb2.DESCRIPTOR.services_by_name["Health"]
    registry.add_service(
        health_service,
        health.table(),
        fast=health.fast_table(),
        standing=health.standing_table(),
        prefix="Health",
    )
    reflection_service = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]
    registry.add_service(reflection_service, reflection.table())
    registry.add_service(reflection_service, reflection.table(), name=V1_SERVICE)
    reflection.set_services(registry.services())


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
