"""Every Prometheus metric of the project, declared once: units in names, labels bounded.

Several processes serve together, so values live in files under PROMETHEUS_MULTIPROC_DIR (set by the
supervisor before a worker starts) and the supervisor merges them for one scrape. Without that
variable the same metrics live in this process. Label values come from closed sets: operations of
the method table, gRPC status names, feed origins, lanes. Not for anything of one user.
"""

from __future__ import annotations

import math
import os
from bisect import bisect_left
from collections import Counter as Tally
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, multiprocess
from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Sample

from feedcore.observe import allocated

allocated.install()
MULTIPROCESS_DIR_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"

# From half a microsecond (a cached page) to 10 s (a bulk batch), three steps a decade, and the
# service's ceilings of 100, 200 and 300 ms as edges of their own.
CALL_BUCKETS_S = (
    0.0000005, 0.000001, 0.000002, 0.000005, 0.00001, 0.00002, 0.00005, 0.0001, 0.0002, 0.0005,
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0,
)  # fmt: skip
# Another service does not answer within 100 microseconds.
COLLABORATOR_BUCKETS_S = CALL_BUCKETS_S[7:]

CALLS = Counter(
    "feedcore_calls_total", "Calls that ended, by gRPC status.", ["operation", "status"]
)
CALLS_SHED = Counter(
    "feedcore_calls_shed_total",
    "Reads of feeds refused because more work waited than could be done in time.",
    ["operation"],
)
CALL_DURATION = Histogram(
    "feedcore_call_duration_seconds",
    "Time from the parsed request to the encoded reply, of every call that was not refused before"
    " it began.",
    ["operation"],
    buckets=CALL_BUCKETS_S,
)
CALLS_IN_FLIGHT = Gauge(
    "feedcore_calls_in_flight", "Calls being handled now.", multiprocess_mode="livesum"
)
CONNECTIONS = Gauge(
    "feedcore_connections",
    "Open connections of each worker, by what carries them: how evenly they are spread.",
    ["transport"],  # without a label every process would have one, those without a listener, too
    multiprocess_mode="liveall",
)
CONNECTIONS_ACCEPTED = Counter(
    "feedcore_connections_accepted_total", "Connections that the native transport began to serve."
)
CONNECTIONS_CUT = Counter(
    "feedcore_connections_cut_total",
    "Connections that the native transport ended against the peer's will, by what the peer did.",
    ["reason"],
)
RECEIVED_BYTES_HELD = Gauge(
    "feedcore_transport_received_bytes_held",
    "Bytes of requests that are not whole or not taken by a handler.",
    multiprocess_mode="livesum",
)
SENT_BYTES_HELD = Gauge(
    "feedcore_transport_sent_bytes_held",
    "Bytes of replies that wait for their readers.",
    multiprocess_mode="livesum",
)
STREAMS_WAITING = Gauge(
    "feedcore_streams_waiting",
    "Open streams that wait for a message or for news (Import, reflection, Health.Watch).",
    multiprocess_mode="livesum",
)
PROCESSES = Gauge(
    "feedcore_processes",
    "Processes that are alive, by role.",
    ["role"],
    multiprocess_mode="livesum",
)
STARTED = Gauge(
    "feedcore_start_time_seconds",
    "When the oldest process of the role started, in seconds since 1970.",
    ["role"],
    multiprocess_mode="min",
)

RESTARTS = Counter("feedcore_restarts_total", "Processes started in place of dead ones.", ["role"])
NOT_READY = Gauge(
    "feedcore_not_ready",
    "Workers whose health says NOT_SERVING although they serve, by what is wrong.",
    ["reason"],
    multiprocess_mode="livesum",
)
OPEN_FILES_SHORT = Gauge(
    "feedcore_open_files_short",
    "Processes that are at, or near, their limit of open files.",
    multiprocess_mode="livesum",
)
OPEN_FILES_LIMIT = Gauge(
    "feedcore_open_files_limit",
    "Limit of open files of each process.",
    ["role"],
    multiprocess_mode="livemin",
)

FEED_PAGES = Counter(
    "feedcore_feed_pages_total", "Feed pages served, by what they were made from.", ["origin"]
)
FEED_ITEMS = Counter("feedcore_feed_items_total", "Items on the feed pages served.")
FEED_DEGRADED = Counter("feedcore_feed_degraded_pages_total", "Feed pages that lacked something.")
FEED_NOT_MODIFIED = Counter(
    "feedcore_feed_not_modified_total",
    "Feed pages answered by etag alone: the caller's copy was current.",
)
FEED_ANSWERS = Counter(
    "feedcore_feed_answers_total",
    "Pages and checks for new content, by where they came from: cached (this worker's page cache),"
    " shared (the page cache of all nodes), stale (from there, as the store did not answer),"
    " resident (generated from memory, or after a load), generic (the uncompiled service).",
    ["operation", "source"],
)
FAST_CALLS = Counter(
    "feedcore_fast_calls_total", "Calls answered inside the transport's read turn.", ["operation"]
)
CACHE_READS = Counter(
    "feedcore_cache_reads_total", "Lookups in a worker's caches.", ["kind", "result"]
)
CACHE_EVICTED = Counter(
    "feedcore_cache_evicted_total", "Entries that a worker's caches evicted.", ["kind"]
)
CACHE_BYTES = Gauge(
    "feedcore_cache_bytes", "Bytes in the caches of workers.", ["kind"], multiprocess_mode="livesum"
)
CACHE_ENTRIES = Gauge(
    "feedcore_cache_entries",
    "Entries in the caches of workers.",
    ["kind"],
    multiprocess_mode="livesum",
)
LOADS = Counter(
    "feedcore_loads_total",
    "Keys loaded for pages (batches: in so many batches; joined: asked for while under way).",
    ["kind", "what"],
)
IMPRESSIONS_DROPPED = Counter(
    "feedcore_impressions_dropped_total", "Impressions that no buffer had room for."
)
TIMELINE_READS = Counter(
    "feedcore_timeline_reads_total",
    "Author timelines read for feed pages, by cache result.",
    ["result"],
)

FANOUT_DELIVERIES = Counter("feedcore_fanout_deliveries_total", "Posts delivered to feeds by push.")
FANOUT_JOBS = Gauge(
    "feedcore_fanout_jobs",
    "Fan-out jobs waiting or under way.",
    ["lane"],
    multiprocess_mode="livemostrecent",
)
FANOUT_LAG = Gauge(
    "feedcore_fanout_lag_seconds",
    "Age of the oldest fan-out job.",
    ["lane"],
    multiprocess_mode="livemostrecent",
)
FANOUT_EXPORTED = Gauge(
    "feedcore_fanout_exported_time_seconds",
    "When a fan-out process last wrote the figures of its lanes, in seconds since 1970: one that"
    " hangs writes none.",
    multiprocess_mode="livemax",
)
FANOUT_FAILURES = Counter("feedcore_fanout_failures_total", "Turns of fan-out jobs that failed.")
DEAD_LETTERS = Gauge(
    "feedcore_fanout_dead_letters", "Fan-out jobs given up.", multiprocess_mode="livemostrecent"
)
FANOUT_UNREADABLE = Counter(
    "feedcore_fanout_unreadable_total",
    "Messages and outbox rows that were no job; kept as dead letters.",
)
OUTBOX_JOBS = Counter(
    "feedcore_outbox_jobs_total",
    "Fan-out jobs by how they left the outbox: relayed (right after their commit), left (for the"
    " sweeper: the queue was away or full), swept (by the sweeper).",
    ["how"],
)
OUTBOX_OLDEST = Gauge(
    "feedcore_outbox_oldest_seconds",
    "Age of the oldest fan-out job that the queue would not take; 0: none.",
    multiprocess_mode="livemax",
)
QUEUE_UP = Gauge(
    "feedcore_queue_up",
    "1 while the queue's brokers take messages of every process, else 0.",
    multiprocess_mode="livemin",
)
EVENTS = Counter("feedcore_events_total", "Feed events, by result: sent or dropped.", ["result"])
MERGE_BACKLOG = Gauge(
    "feedcore_merge_backlog_deliveries",
    "Deliveries that are durable but not yet in the stored feeds.",
    multiprocess_mode="livemostrecent",
)

SHARED_CACHE_READS = Counter(
    "feedcore_shared_cache_reads_total",
    "Lookups in Redis of what other nodes have made, by result: hit, stale (there, but not what"
    " would be made now), miss.",
    ["kind", "result"],
)
SHARED_CACHE_REFUSED = Counter(
    "feedcore_shared_cache_refused_total",
    "Questions and writes that were not sent to Redis: too much waited, or its breaker was open.",
)
SHARED_CACHE_FAILURES = Counter(
    "feedcore_shared_cache_failures_total", "Round trips to Redis without an answer in time."
)
VALIDATION_BYPASSED = Counter(
    "feedcore_cache_validation_bypassed_total",
    "Loads that used nothing cached of the user, because Redis could not be relied on.",
)
VALIDATION_INVALIDATED = Counter(
    "feedcore_cache_validation_invalidated_total",
    "Times that all cached data was invalidated: Redis was away, restarted, or lost its log.",
)
ANNOUNCEMENTS_PENDING = Gauge(
    "feedcore_announcements_pending",
    "Changes that Redis has not acknowledged yet: other nodes may not know of them.",
    multiprocess_mode="livesum",
)
NODE_LOG_AGE = Gauge(
    "feedcore_node_log_age_seconds",
    "Since the node log was last read to its end, of the worker that is furthest behind.",
    multiprocess_mode="livemax",
)
REDIS_SUSPECTS = Gauge(
    "feedcore_redis_suspect_nodes",
    "Redis nodes that do not answer, or have for too short a time to be trusted.",
    multiprocess_mode="livemax",
)
REDIS_BREAKERS_OPEN = Gauge(
    "feedcore_redis_breakers_open",
    "Redis nodes that are left alone because they did not answer.",
    multiprocess_mode="livemax",
)
RATE_LIMITED = Counter(
    "feedcore_rate_limited_total",
    "Calls refused by a rate limit.",
)
RATE_LIMITS_LOCAL = Counter(
    "feedcore_rate_limits_local_total",
    "Rate limits decided by one node alone, because Redis was away.",
)

MERGE_FAILING = Gauge(
    "feedcore_merge_failing",
    "1 while merges fail (the log says why; nothing is lost, the backlog grows), else 0.",
    multiprocess_mode="livemostrecent",
)

COLLABORATOR_CALLS = Counter(
    "feedcore_collaborator_calls_total",
    "Calls to other services that ended (resilience/stack.py has the outcomes).",
    ["collaborator", "outcome"],
)
COLLABORATOR_DURATION = Histogram(
    "feedcore_collaborator_call_duration_seconds",
    "Time of such a call, retries and waiting for a place included.",
    ["collaborator"],
    buckets=COLLABORATOR_BUCKETS_S,
)
COLLABORATOR_RETRIES = Counter(
    "feedcore_collaborator_retries_total", "Attempts beyond the first.", ["collaborator"]
)
COLLABORATOR_RETRIES_REFUSED = Counter(
    "feedcore_collaborator_retries_refused_total",
    "Retries that the retry budget did not allow.",
    ["collaborator"],
)
COLLABORATOR_FALLBACKS = Counter(
    "feedcore_collaborator_fallbacks_total",
    "Calls whose place something older or simpler took.",
    ["collaborator"],
)
BREAKER_CHANGES = Counter(
    "feedcore_breaker_changes_total",
    "Circuit breakers that entered a state; endpoints are those of the settings.",
    ["dependency", "endpoint", "state"],
)
BREAKERS_NOT_CLOSED = Gauge(
    "feedcore_breakers_not_closed",
    "Processes that leave the endpoint out now (open, or half open).",
    ["dependency", "endpoint"],
    multiprocess_mode="livesum",
)


class Durations:
    """How long calls of one operation took, in plain numbers: for calls that come too often to
    observe each.
    """

    def __init__(self) -> None:
        self.counts = [0] * (len(CALL_BUCKETS_S) + 1)  # by bucket, the last one without an edge
        self.seconds = 0.0

    def add(self, calls: int, seconds: float) -> None:
        """Adds calls that took so long each."""
        self.counts[bisect_left(CALL_BUCKETS_S, seconds)] += calls
        self.seconds += calls * seconds


class Totals:
    """Adds to metrics what is new in totals that are kept as plain numbers."""

    def __init__(self) -> None:
        self._published: dict[object, float] = {}

    def add(self, counter: Counter, total: int, name: object = None) -> None:
        """`name` tells totals apart that are added to one counter."""
        new = self._new((counter, name), total)
        if new:
            counter.inc(new)

    def add_durations(
        self, histogram: Histogram, counts: Sequence[int], seconds: float, name: object
    ) -> None:
        """`counts` by bucket of the histogram, from the first one on; `seconds` their sum.

        The library can only observe one value after the other, so this goes to the numbers behind
        `observe`; tests/unit/server/test_observe.py notices if they move.
        """
        for place, count in enumerate(counts):
            new = self._new((histogram, name, place), count)
            if new:
                histogram._buckets[place].inc(new)
        histogram._sum.inc(self._new((histogram, name), seconds))

    def _new(self, key: object, total: float) -> float:
        new = total - self._published.get(key, 0)
        self._published[key] = total
        return new


class OperationFigures(NamedTuple):
    """One operation over all processes. Quantiles are the upper edges of their histogram
    buckets."""

    name: str
    calls: int
    failures: int
    p50_ms: float
    p99_ms: float


class Figures(NamedTuple):
    """What GetStatus needs of the metrics of all processes."""

    operations: list[OperationFigures]
    processes: int
    started_ms: int
    deliveries: int
    timeline_hits: int
    timeline_misses: int
    connections: list[int]  # open on each worker of the native transport
    not_ready: dict[str, int]  # workers that serve and are not ready, by what is wrong
    files_short: int  # processes with too few open files
    files_limit: int  # the lowest of all processes; 0 if none says


def add_shared(registry: CollectorRegistry, directory: str) -> CollectorRegistry:
    """The registry, which merges the files of all processes below `directory` at each scrape."""
    multiprocess.MultiProcessCollector(registry, path=directory)
    return registry


def forget_process(pid: int, directory: str) -> None:
    """Takes the gauges of a process that died out of the sums; its counters stay."""
    multiprocess.mark_process_dead(pid, path=directory)


def figures() -> Figures:
    """Reads the metrics of all processes that share this directory, or of this one if there is
    none."""
    directory = os.environ.get(MULTIPROCESS_DIR_VARIABLE)
    registry = add_shared(CollectorRegistry(), directory) if directory else REGISTRY
    return summarize(registry.collect())


def summarize(metrics: Iterable[Metric]) -> Figures:
    """Folds samples into one line an operation."""
    found: dict[str, list[Sample]] = defaultdict(list)
    for metric in metrics:
        for sample in metric.samples:
            found[sample.name].append(sample)
    calls: Tally[str] = Tally()
    failures: Tally[str] = Tally()
    for sample in found["feedcore_calls_total"]:
        calls[sample.labels["operation"]] += int(sample.value)
        if sample.labels["status"] != "ok":
            failures[sample.labels["operation"]] += int(sample.value)
    edges = _edges(found["feedcore_call_duration_seconds_bucket"])
    operations = []
    for name in sorted(calls):
        quantiles = (quantile_ms(edges[name], 0.50), quantile_ms(edges[name], 0.99))
        operations.append(OperationFigures(name, calls[name], failures[name], *quantiles))
    reads: Tally[str] = Tally()
    for sample in found["feedcore_timeline_reads_total"]:
        reads[sample.labels["result"]] += int(sample.value)
    started = [one.value for one in found["feedcore_start_time_seconds"] if one.value > 0]
    not_ready = {
        one.labels["reason"]: int(one.value) for one in found["feedcore_not_ready"] if one.value > 0
    }
    files = [one.value for one in found["feedcore_open_files_limit"]]
    return Figures(
        operations,
        int(sum(one.value for one in found["feedcore_processes"])),
        int(min(started, default=0.0) * 1_000),
        int(sum(one.value for one in found["feedcore_fanout_deliveries_total"])),
        reads["hit"],
        reads["miss"],
        sorted(int(one.value) for one in found["feedcore_connections"]),
        not_ready,
        int(sum(one.value for one in found["feedcore_open_files_short"])),
        int(min(files, default=0.0)),
    )


def _edges(samples: Iterable[Sample]) -> dict[str, list[tuple[float, float]]]:
    """(upper edge in seconds, observations) by operation."""
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for sample in samples:
        edge = float(sample.labels["le"])
        found[sample.labels["operation"]].append((edge, sample.value))
    return found


def quantile_ms(cumulative: list[tuple[float, float]], q: float) -> float:
    """Upper edge, in milliseconds, of the bucket that holds quantile `q`; 0 if nothing was
    observed.

    `cumulative`: (upper edge in seconds, observations at or below). Above the last edge, the last
    edge.
    """
    ordered = sorted(cumulative)
    if not ordered or ordered[-1][1] <= 0:
        return 0.0
    wanted = q * ordered[-1][1]
    finite = [edge for edge, _ in ordered if math.isfinite(edge)]
    for edge, count in ordered:
        if count >= wanted and math.isfinite(edge):
            return edge * 1_000
    return finite[-1] * 1_000 if finite else 0.0
