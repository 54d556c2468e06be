"""Maps an engine to gRPC methods: services -> handlers -> interceptors -> method table.

Not for opening anything: `feedcore.compose` opens the engine, and `processes` the transport.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from feedcore.clock import Clock
from feedcore.compose import Engine
from feedcore.config import ServerSettings
from feedcore.domain.receipt import Origin
from feedcore.observe import logs
from feedcore.ports.events import EventSink
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
from feedcore_server.registry import FastHandler, Handlers, Registry
from feedcore_server.transports import Transport

if TYPE_CHECKING:
    from feedcore._native.feed.draft import Draft

SHAPE_BYTES = 4  # of a draft's shape: page size and view; the cursor follows


@dataclass(frozen=True, slots=True)
class Api:
    """One worker's side of the server, ready to be carried by a transport."""

    dispatcher: Dispatcher
    health: HealthHandlers

    async def drain(self, transport: Transport, grace_s: float) -> None:
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
    for handlers in _collaborators(engine):
        registry.add_service(handlers.SERVICE, handlers.table())
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
    batched = feed.batched() if batches else None
    registry.add_service(feed.SERVICE, feed.table(), fast=fast_feed(engine), batched=batched)
    own = PublishHandlers(engine.publish, events), AdminHandlers(admin)
    for handlers in (*own, *_collaborators(engine)):
        registry.add_service(handlers.SERVICE, handlers.table())
    add_standard(registry, health)
    return registry


def _collaborators(engine: Engine) -> list[Handlers]:
    """The collaborators' contracts, as the engine itself answers them."""
    return [
        GraphHandlers(engine.graph),
        ContentHandlers(engine.publish),
        RankingHandlers(engine.feed.viewers),
    ]


def add_standard(registry: Registry, health: HealthHandlers) -> None:
    """Health and reflection of all services that are in the table."""
    reflection = ReflectionHandlers()
    health.add(registry.services())
    registry.add_service(
        health.SERVICE,
        health.table(),
        fast=health.fast_table(),
        standing=health.standing_table(),
        prefix="Health",
    )
    registry.add_service(reflection.SERVICE, reflection.table())
    registry.add_service(reflection.SERVICE, reflection.table(), name=V1_SERVICE)
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
    fast: dict[str, FastHandler] = {}
    if engine.resident is None:
        return fast
    if engine.resident.local:
        # built without libnghttp2: grpc.aio serves, and has no fast handlers
        with contextlib.suppress(ImportError):
            from feedcore._native.feed.fastfeed import FastCheckNew, FastGetFeed, Gate

            maker, gate = engine.resident.maker, Gate()
            fast = {"GetFeed": FastGetFeed(maker, gate), "CheckNew": FastCheckNew(maker, gate)}
    engine.resident.on_tick = FeedCounters(engine.resident, fast).publish
    return fast
