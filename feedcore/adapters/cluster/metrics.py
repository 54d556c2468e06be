"""What replica, cache validation and page cache count of themselves, as metrics: once a second, so
that no call pays for it.
"""

from __future__ import annotations

from feedcore.adapters.cluster.cache_validation import ClusterCacheValidation
from feedcore.adapters.cluster.page_cache import ClusterPageCache
from feedcore.adapters.cluster.replication import NodeReplica
from feedcore.adapters.cluster.row_cache import ViewerRowCache
from feedcore.adapters.redis.batcher import Batcher
from feedcore.adapters.redis.limiter import RateLimiter
from feedcore.observe import metrics
from feedcore.observe.metrics import Totals


class SharedCounters:
    """Of one worker."""

    def __init__(
        self,
        batcher: Batcher,
        replica: NodeReplica,
        validation: ClusterCacheValidation,
        pages: ClusterPageCache,
        rows: ViewerRowCache,
        limiter: RateLimiter | None = None,
    ) -> None:
        self._batcher = batcher
        self._replica = replica
        self._validation = validation
        self._pages = pages
        self._rows = rows
        self._limiter = limiter
        self._totals = Totals()

    def publish(self) -> None:
        """Brings the metrics up to date."""
        batcher, replica, totals = self._batcher, self._replica, self._totals
        pages, rows = self._pages, self._rows
        for kind, result, total in (
            ("page", "hit", pages.hits),
            ("page", "stale", pages.stale),
            ("page", "miss", pages.misses),
            ("viewer", "hit", rows.hits),
            ("viewer", "stale", rows.stale),
            ("viewer", "miss", rows.misses),
        ):
            reads = metrics.SHARED_CACHE_READS.labels(kind, result)
            totals.add(reads, total)
        totals.add(metrics.SHARED_CACHE_REFUSED, batcher.refused)
        totals.add(metrics.SHARED_CACHE_FAILURES, batcher.failures)
        totals.add(metrics.VALIDATION_BYPASSED, self._validation.bypassed)
        totals.add(metrics.VALIDATION_INVALIDATED, replica.resyncs)
        metrics.ANNOUNCEMENTS_PENDING.set(replica.announcements.pending)
        metrics.NODE_LOG_AGE.set(replica.log_age_s)
        metrics.REDIS_SUSPECTS.set(batcher.detector.suspects)
        metrics.REDIS_BREAKERS_OPEN.set(batcher.open_breakers)
        if self._limiter is not None:
            totals.add(metrics.RATE_LIMITED, self._limiter.refused)
            totals.add(metrics.RATE_LIMITS_LOCAL, self._limiter.local)
