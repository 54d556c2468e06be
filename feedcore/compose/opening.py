"""Opens what the engine of one process needs, for the role that the process has.

    role            store              fans out               collaborators   caches   gives out ids
    API             of the profile     no                     yes             yes      yes
    FANOUT          of the profile     yes                    yes             no       no
    COLLABORATORS   of the directory   no                     is one          no       no
    OFFLINE         of the directory   unless a server does   yes             no       no

Invariants: what was opened is closed in the opposite order, whether the block ends or opening
fails; at most one process of a directory fans out (fanout.lock).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from enum import StrEnum
from functools import partial
from pathlib import Path

from feedcore.adapters.embedded import EmbeddedStore
from feedcore.adapters.embedded.locks import FileLock
from feedcore.clock import Clock
from feedcore.compose.collaborators import BUILT_IN, open_collaborators
from feedcore.compose.engine import Engine, Store, compose_over
from feedcore.compose.probes import diagnose
from feedcore.compose.stores import Waiting, open_store
from feedcore.config import CacheSettings, FanoutSettings, Settings
from feedcore.domain.ids import time_ms
from feedcore.errors import ClockWentBack
from feedcore.limits import CLOCK_AHEAD_MAX_MS
from feedcore.services.hot import HotSettings
from feedcore.services.resident_budget import CacheBudget

MEGABYTE = 1 << 20
# Somebody waits for status; an engine that takes longer than this is as good as away.
STATUS_PROBES_S = 2.0


class Role(StrEnum):
    """What a process does with its engine."""

    API = "api"
    FANOUT = "fanout"
    COLLABORATORS = "collaborators"
    OFFLINE = "offline"


@asynccontextmanager
async def compose(
    settings: Settings,
    role: Role,
    clock: Clock,
    *,
    node: int = 0,
    waiting: Waiting = lambda what: None,
) -> AsyncIterator[Engine]:
    """An engine, open until the block ends. `node` must differ between all processes that publish;
    `waiting` is called with the name of an engine that does not answer yet. Raises StoreError where
    waiting would not help, and ClockWentBack.
    """
    async with AsyncExitStack() as opened:
        store = await _open_store(settings, role, clock, node, waiting)
        opened.push_async_callback(store.close)
        collaborators = BUILT_IN
        if role != Role.COLLABORATORS:
            clients = open_collaborators(settings.collaborators, clock)
            collaborators = await opened.enter_async_context(clients)
        if role == Role.API:
            await _wait_for_clock(store, clock)
        engine = compose_over(
            store,
            _hot_start(settings.fanout),
            clock,
            region=settings.ids.region,
            node=node,
            budget=_budget(settings.cache) if role == Role.API else None,
            collaborators=collaborators,
            diagnosis=partial(diagnose, settings, clock, STATUS_PROBES_S),
        )
        opened.push_async_callback(engine.close)
        yield engine


def is_fanned_out(data_dir: Path) -> bool:
    """Whether another process does the fan-out of this directory now."""
    path = data_dir / "fanout.lock"
    if not path.exists():
        return False
    lock = FileLock(path)
    try:
        return not lock.try_acquire()
    finally:
        lock.close()


async def _open_store(
    settings: Settings, role: Role, clock: Clock, node: int, waiting: Waiting
) -> Store:
    if role in (Role.API, Role.FANOUT):
        fanout = role == Role.FANOUT
        return await open_store(settings, clock, node=node, fanout=fanout, waiting=waiting)
    data_dir = settings.store.data_dir
    writer_role = role == Role.OFFLINE and not is_fanned_out(data_dir)
    return EmbeddedStore.open(data_dir, clock, writer_role=writer_role)


def _budget(cache: CacheSettings) -> CacheBudget:
    """Bytes a worker."""
    return CacheBudget(cache.pages_mb * MEGABYTE, cache.resident_mb * MEGABYTE)


def _hot_start(fanout: FanoutSettings) -> HotSettings:
    """Hot settings until an operator changes them."""
    return HotSettings(
        push_threshold=fanout.push_threshold,
        hysteresis_percent=fanout.hysteresis_percent,
        rest_lane_paused=fanout.rest_lane_paused,
        fanout_paused=fanout.paused,
    )


async def _wait_for_clock(store: Store, clock: Clock) -> None:
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
