"""What validation counts of itself, as metrics: once a second, so that no call pays for it."""

from __future__ import annotations

from feedcore.adapters.cluster.cache_validation import ClusterCacheValidation
from feedcore.adapters.redis.batcher import Batcher
from feedcore.adapters.redis.limiter import RateLimiter
from feedcore.observe import metrics
from feedcore.observe.metrics import Totals


class SharedCounters:
    """Of one worker."""

    def __init__(
        self,
        batcher: Batcher,
        validation: ClusterCacheValidation,
        limiter: RateLimiter | None = None,
    ) -> None:
        self._batcher = batcher
        self._validation = validation
        self._limiter = limiter
        self._totals = Totals()

    def publish(self) -> None:
        """Brings the metrics up to date."""
        batcher, validation, totals = self._batcher, self._validation, self._totals
        pages = validation.pages
        for kind, result, total in (
            ("page", "hit", pages.hits),
            ("page", "stale", pages.stale),
            ("page", "miss", pages.misses),
            ("viewer", "hit", pages.row_hits),
            ("viewer", "stale", pages.row_stale),
            ("viewer", "miss", pages.row_misses),
        ):
            reads = metrics.SHARED_CACHE_READS.labels(kind, result)
            totals.add(reads, (kind, result), total)
        totals.add(metrics.SHARED_CACHE_REFUSED, "refused", batcher.refused)
        totals.add(metrics.SHARED_CACHE_FAILURES, "failures", batcher.failures)
        totals.add(metrics.VALIDATION_BYPASSED, "bypassed", validation.bypassed)
        totals.add(metrics.VALIDATION_INVALIDATED, "forgotten", validation.forgotten)
        metrics.ANNOUNCEMENTS_OWED.set(validation.owed)
        metrics.NODE_LOG_AGE.set(validation.log_age_s)
        metrics.REDIS_UNTRUSTED.set(batcher.trust.away)
        metrics.REDIS_BREAKERS_OPEN.set(batcher.open_breakers)
        if self._limiter is not None:
            totals.add(metrics.RATE_LIMITED, "limited", self._limiter.refused)
            totals.add(metrics.RATE_LIMITS_LOCAL, "local", self._limiter.local)
