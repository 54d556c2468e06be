"""Publishes what compiled feed code counts of itself as metrics: once a second, so no call pays
for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from feedcore.observe import metrics
from feedcore.observe.metrics import Totals

if TYPE_CHECKING:
    from collections.abc import Mapping

    from feedcore._native.feed.fastfeed import FastFeed
    from feedcore.services.resident import ResidentFeed


class FeedCounters:
    """Of one worker."""

    def __init__(self, feed: ResidentFeed, fast: Mapping[str, FastFeed]) -> None:
        self._feed = feed
        self._fast = fast
        self._totals = Totals()

    def publish(self) -> None:
        """Brings the metrics up to date."""
        feed, maker, totals = self._feed, self._feed.maker, self._totals
        shared = feed.batched.shared_pages if feed.batched is not None else 0
        items = feed.batched.shared_items if feed.batched is not None else 0
        pages = maker.counts.pages_cached + maker.counts.pages_generated + shared
        totals.add(metrics.FEED_PAGES.labels("stored"), pages)
        totals.add(metrics.FEED_ITEMS, maker.counts.items_served + items)
        totals.add(metrics.FEED_NOT_MODIFIED, maker.counts.not_modified)
        dropped = maker.counts.shown_dropped + (
            feed.batched.shown_dropped if feed.batched is not None else 0
        )
        totals.add(metrics.IMPRESSIONS_DROPPED, dropped)
        for operation, source, count in (
            ("GetFeed", "cached", maker.counts.pages_cached),
            ("GetFeed", "resident", maker.counts.pages_generated),
            ("GetFeed", "shared", shared - feed.stale_pages),
            ("GetFeed", "stale", feed.stale_pages),
            ("GetFeed", "generic", feed.generic_pages),
            ("CheckNew", "cached", maker.counts.checks_cached),
            ("CheckNew", "resident", maker.counts.checks_generated),
            ("CheckNew", "generic", feed.generic_checks),
        ):
            totals.add(metrics.FEED_ANSWERS.labels(operation, source), count)
        for operation, handler in self._fast.items():
            counts = handler.times()
            totals.add(metrics.FAST_CALLS.labels(operation), sum(counts))
            durations = metrics.CALL_DURATION.labels(operation)
            totals.add_durations(durations, counts, handler.took_ns / 1e9, "fast")
        self._publish_caches()
        self._publish_loads()

    def _publish_caches(self) -> None:
        resident, totals = self._feed.resident, self._totals
        for kind in ("pages", "viewers", "timelines", "contents"):
            cache = getattr(resident, kind)
            totals.add(metrics.CACHE_READS.labels(kind, "hit"), cache.hits)
            totals.add(metrics.CACHE_READS.labels(kind, "miss"), cache.misses)
            totals.add(metrics.CACHE_EVICTED.labels(kind), cache.evicted)
            metrics.CACHE_BYTES.labels(kind).set(cache.bytes_used)
            metrics.CACHE_ENTRIES.labels(kind).set(len(cache))
        timelines = resident.timelines
        totals.add(metrics.TIMELINE_READS.labels("hit"), timelines.hits)
        totals.add(metrics.TIMELINE_READS.labels("miss"), timelines.misses)

    def _publish_loads(self) -> None:
        loads, totals = self._feed.loads, self._totals
        for kind in ("viewers", "timelines", "contents"):
            coalescer = getattr(loads, kind)
            for what in ("loaded", "batches", "joined"):
                totals.add(metrics.LOADS.labels(kind, what), getattr(coalescer, what))
