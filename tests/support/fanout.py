"""A fan-out worker over ports of which a test may have replaced one."""

from __future__ import annotations

from typing import Protocol

from feedcore.clock import Clock
from feedcore.ports import CacheValidation, FanoutQueue, FeedStore, GraphSource, PostStore
from feedcore.services.hot import Hot
from feedcore.workers.fanout import FanoutWorker


class FanoutPorts(Protocol):
    """What the worker needs of a store."""

    @property
    def queue(self) -> FanoutQueue: ...
    @property
    def feeds(self) -> FeedStore: ...
    @property
    def posts(self) -> PostStore: ...
    @property
    def validation(self) -> CacheValidation: ...


def fanout_over(store: FanoutPorts, graph: GraphSource, hot: Hot, clock: Clock) -> FanoutWorker:
    """As `compose_over` makes it."""
    return FanoutWorker(store.queue, store.feeds, graph, store.posts, store.validation, hot, clock)
