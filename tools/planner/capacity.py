"""Servers, bytes and rates for a workload: the lines of the sheet and what they come to.

Job: `plan` evaluates LINES for a workload, figures and a scale. The system is the one of the design
with its cluster's engines: feed nodes that keep windows, timelines and contents in memory; publish
nodes; a queue of fan-out jobs; fan-out workers; a feed store and a post store (posts, timelines,
graph, preferences), both replicated; a shared cache. Rates are those of the peak. A role's nodes
are what its scarcest resource asks for at `utilisation`, rounded up, and `spares` more.

Invariants: every number of a plan is a line with its formula; more load never asks for less. Not
for prices, latencies, or several regions: multiply.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from feedcore.errors import InvalidField
from feedcore.limits import FANOUT_QUOTA_FOLLOWERS, PULLED_SOURCES_MAX
from feedcore_planner.figures import Figures
from feedcore_planner.follows import BISECTIONS, Followers
from feedcore_planner.sheet import Function, Line, Step, evaluate
from feedcore_planner.workload import DAY_S, Workload

SCALE_MIN, SCALE_MAX = 1e-6, 1e6  # one user of a million, and more users than there can be
CONSTANTS = {
    "DAY_S": float(DAY_S),
    "PULLED_SOURCES_MAX": float(PULLED_SOURCES_MAX),
    "FANOUT_QUOTA_FOLLOWERS": float(FANOUT_QUOTA_FOLLOWERS),
}


def group(name: str, *lines: tuple[str, str, str, str]) -> tuple[Line, ...]:
    """Lines (name, formula, unit, meaning) under one heading."""
    return tuple(Line(name, *line) for line in lines)


LOADS = group(
    "loads",
    ("users", "daily_users * scale", "users/day", ""),
    ("accounts", "users * accounts_per_daily_user", "accounts", ""),
    ("loads_mean", "users * loads_per_user / DAY_S", "loads/s", ""),
    ("loads_peak", "loads_mean * load_peak_factor", "loads/s", ""),
    ("visits_peak", "loads_peak * visits_per_user / loads_per_user", "visits/s", ""),
    ("hot_peak", "loads_peak * page_hit_share", "loads/s", "answered from the page cache"),
    (
        "cold_peak",
        "min(visits_peak, loads_peak - hot_peak)",
        "loads/s",
        "the first load of a visit finds nothing in memory",
    ),
    ("warm_peak", "loads_peak - hot_peak - cold_peak", "loads/s", "from resident data"),
)
POSTS = group(
    "posts and fan-out",
    ("posts_day", "users * posts_per_user", "posts/day", ""),
    ("posts_mean", "posts_day / DAY_S", "posts/s", ""),
    ("posts_peak", "posts_mean * post_peak_factor", "posts/s", ""),
    (
        "deliveries_all_day",
        "posts_day * pushed_per_post(followers_max, activity_exponent)",
        "deliveries/day",
        "what pushing everything to everybody would be",
    ),
    (
        "pushed_followers",
        "pushed_per_post(push_threshold, activity_exponent) * active_share",
        "deliveries/post",
        "over all posts, those of pulled authors counted with none",
    ),
    ("deliveries_day", "posts_day * pushed_followers", "deliveries/day", ""),
    ("deliveries_mean", "deliveries_day / DAY_S", "deliveries/s", ""),
    ("deliveries_peak", "deliveries_mean * post_peak_factor", "deliveries/s", ""),
    (
        "deliveries_rate",
        "deliveries_peak * peak_s / (peak_s + freshness_s)",
        "deliveries/s",
        "a rate that is `freshness_s` behind when the peak ends; readers overlay what waits",
    ),
    ("queue_backlog", "deliveries_rate * freshness_s", "deliveries", "at the end of a peak"),
    (
        "delivery_us",
        "1e6 / expansions_per_core + store_insert_us",
        "us",
        "CPU of a delivery: expanded and sorted, then sent to the store",
    ),
    ("fanout_cores", "deliveries_rate * delivery_us / 1e6 / utilisation", "cores", ""),
    ("fanout_network", "deliveries_rate * (entry_bytes + 2 * id_bytes)", "bytes/s", ""),
    (
        "fanout_exact",
        "max(fanout_cores / api_node_cores, fanout_network / (node_network * utilisation))",
        "nodes",
        "",
    ),
    ("fanout_nodes", "ceil(fanout_exact) + spares", "nodes", ""),
    ("publish_cores", "posts_peak / publishes_per_core / utilisation", "cores", ""),
    ("publish_exact", "publish_cores / api_node_cores", "nodes", ""),
    ("publish_nodes", "ceil(publish_exact) + spares", "nodes", ""),
)
PULL = group(
    "pull",
    (
        "pulled_authors",
        "min(PULLED_SOURCES_MAX, pulled_per_viewer(push_threshold))",
        "authors",
        "with at least the threshold's followers, that one user follows",
    ),
    (
        "timelines_all",
        "loads_peak * pulled_per_viewer(0)",
        "timelines/s",
        "what pulling from everybody would be, without a cache",
    ),
    ("timelines", "accounts * share_above(push_threshold)", "authors", "pulled, of all accounts"),
    ("entries_kept", "posts_day * retention_days", "entries", "of all authors"),
    (
        "timeline_bytes",
        "timelines * timeline_overhead_bytes"
        " + entries_kept * posts_above(push_threshold, activity_exponent) * entry_bytes",
        "bytes",
        "of all pulled authors, on every feed node",
    ),
    (
        "timelines_from",
        "fit_from(push_threshold, timeline_cache, accounts * timeline_overhead_bytes,"
        " entries_kept * entry_bytes, activity_exponent)",
        "followers",
        "down to these, timelines fit into a feed node's cache",
    ),
    (
        "timelines_read",
        "min(pulled_authors, pulled_per_viewer(push_threshold, timelines_from))",
        "authors",
        "of those of one page: not resident, read from the store",
    ),
    (
        "pull_us",
        "max(0, pulled_authors - warm_timelines) * timeline_merge_us"
        " + timelines_read * timeline_read_us",
        "us",
        "CPU of a generated page beyond that of the benchmark's",
    ),
)
FEED_NODES = group(
    "feed nodes",
    (
        "feed_cores",
        "(hot_peak / hot_loads_per_core + warm_peak / warm_loads_per_core"
        " + cold_peak / cold_loads_per_core + (warm_peak + cold_peak) * pull_us / 1e6)"
        " / utilisation",
        "cores",
        "",
    ),
    ("resident_users", "min(users, visits_peak * residency_s)", "users", ""),
    ("window_memory", "resident_users * window_bytes", "bytes", "each on one node"),
    (
        "page_memory",
        "min(users, visits_peak * page_ttl_s) * page_bytes",
        "bytes",
        "one page for each visit that began within the page's age",
    ),
    (
        "feed_node_free",
        "api_node_memory * utilisation - content_cache - min(timeline_bytes, timeline_cache)",
        "bytes",
        "what a node has left for windows and pages",
    ),
    ("feed_cpu", "feed_cores / api_node_cores", "nodes", ""),
    ("feed_memory", "(window_memory + page_memory) / feed_node_free", "nodes", ""),
    (
        "feed_network",
        "(loads_peak * page_bytes + deliveries_rate * id_bytes) / (node_network * utilisation)",
        "nodes",
        "pages out, notices of moved epochs in",
    ),
    ("feed_exact", "max(feed_cpu, feed_memory, feed_network)", "nodes", ""),
    ("feed_nodes", "ceil(feed_exact) + spares", "nodes", ""),
    (
        "resident_bytes",
        "window_memory + page_memory"
        " + feed_nodes * (content_cache + min(timeline_bytes, timeline_cache))",
        "bytes",
        "of all feed nodes",
    ),
)
FEED_STORE = group(
    "feed store",
    ("feed_writes", "deliveries_rate * replication", "rows/s", "of all replicas"),
    (
        "feed_reads",
        "(cold_peak + warm_peak * refresh_share) * read_replicas",
        "reads/s",
        "of all replicas",
    ),
    (
        "feed_store_cores",
        "(feed_writes / store_writes_per_core + feed_reads / store_reads_per_core) / utilisation",
        "cores",
        "",
    ),
    ("feed_items", "deliveries_day * retention_days", "items", ""),
    (
        "feed_bytes",
        "feed_items * (feed_item_bytes + row_overhead_bytes) * replication",
        "bytes",
        "of all replicas",
    ),
    ("feed_store_cpu", "feed_store_cores / store_node_cores", "nodes", ""),
    ("feed_store_disk", "feed_bytes / (store_node_disk * utilisation)", "nodes", ""),
    ("feed_store_exact", "max(feed_store_cpu, feed_store_disk)", "nodes", ""),
    ("feed_store_nodes", "max(replication, ceil(feed_store_exact)) + spares", "nodes", ""),
)
POST_STORE = group(
    "post store",
    ("post_writes", "posts_peak * 3 * replication", "rows/s", "post, timeline entry, key"),
    (
        "post_reads",
        "((warm_peak + cold_peak) * (page_items * content_miss_share + timelines_read)"
        " + 2 * cold_peak + deliveries_rate / 1000) * read_replicas",
        "reads/s",
        "contents, timelines; graph and preferences of a cold load; pages of 1,000 followers",
    ),
    (
        "post_store_cores",
        "(post_writes / store_writes_per_core + post_reads / store_reads_per_core) / utilisation",
        "cores",
        "",
    ),
    ("post_bytes_kept", "posts_day * post_days * post_bytes * replication", "bytes", ""),
    (
        "timeline_bytes_kept",
        "entries_kept * (feed_item_bytes + row_overhead_bytes) * replication",
        "bytes",
        "of all authors: a user who returns after a month is served by pull",
    ),
    (
        "graph_bytes",
        "accounts * followers_mean * 2 * edge_bytes * replication",
        "bytes",
        "each follow in both directions",
    ),
    ("post_store_bytes", "post_bytes_kept + timeline_bytes_kept + graph_bytes", "bytes", ""),
    ("post_store_cpu", "post_store_cores / store_node_cores", "nodes", ""),
    ("post_store_disk", "post_store_bytes / (store_node_disk * utilisation)", "nodes", ""),
    ("post_store_exact", "max(post_store_cpu, post_store_disk)", "nodes", ""),
    ("post_store_nodes", "max(replication, ceil(post_store_exact)) + spares", "nodes", ""),
)
CACHE_AND_QUEUE = group(
    "cache and queue",
    (
        "cache_bytes",
        "min(users, visits_peak * page_ttl_s) * (page_bytes + window_bytes)",
        "bytes",
        "a page and a window for each visit that began within their age",
    ),
    ("cache_ops", "(warm_peak + cold_peak) * 2", "ops/s", "looked up, then set"),
    (
        "cache_shards",
        "max(cache_bytes / cache_shard_memory, cache_ops / cache_ops_per_shard) / utilisation",
        "shards",
        "",
    ),
    ("cache_exact", "2 * cache_shards / cache_node_shards", "nodes", "primary and replica"),
    ("cache_nodes", "ceil(cache_exact) + spares", "nodes", ""),
    (
        "queue_messages",
        "posts_peak + deliveries_rate / FANOUT_QUOTA_FOLLOWERS",
        "messages/s",
        "a job for each post, one more for each bounded turn",
    ),
    (
        "queue_bytes",
        "posts_mean * queue_hours * 3600 * job_bytes * replication",
        "bytes",
        "jobs kept for an outage of fan-out",
    ),
    (
        "queue_exact",
        "max(queue_messages / queue_messages_per_broker, queue_bytes / queue_node_disk)"
        " / utilisation",
        "nodes",
        "",
    ),
    ("queue_nodes", "max(replication, ceil(queue_exact)) + spares", "nodes", ""),
    ("consumers", "fanout_cores", "processes", "one a core, each with partitions of its own"),
)
TOTALS = group(
    "totals",
    (
        "servers",
        "feed_nodes + publish_nodes + fanout_nodes + feed_store_nodes + post_store_nodes"
        " + cache_nodes + queue_nodes",
        "nodes",
        "",
    ),
    (
        "cores",
        "(feed_nodes + publish_nodes + fanout_nodes) * api_node_cores"
        " + (feed_store_nodes + post_store_nodes) * store_node_cores"
        " + cache_nodes * cache_node_cores + queue_nodes * queue_node_cores",
        "cores",
        "",
    ),
    (
        "needed_cores",
        "(feed_exact + publish_exact + fanout_exact) * api_node_cores"
        " + (feed_store_exact + post_store_exact) * store_node_cores"
        " + cache_exact * cache_node_cores + queue_exact * queue_node_cores",
        "cores",
        "before rounding and spares: what a threshold changes",
    ),
    ("stored_bytes", "feed_bytes + post_store_bytes + queue_bytes", "bytes", "all copies"),
)
LINES = (*LOADS, *POSTS, *PULL, *FEED_NODES, *FEED_STORE, *POST_STORE, *CACHE_AND_QUEUE, *TOTALS)


class Role(NamedTuple):
    """One kind of node. `exact`: nodes needed at `utilisation`; `nodes`: whole, with spares;
    `binds`: the resource that asks for most."""

    name: str
    exact: float
    nodes: int
    binds: str


# Role -> (prefix of its lines, resource -> the line with the nodes it asks for)
ROLES: dict[str, tuple[str, dict[str, str]]] = {
    "feed": ("feed", {"CPU": "feed_cpu", "memory": "feed_memory", "network": "feed_network"}),
    "publish": ("publish", {"CPU": "publish_exact"}),
    "fan-out": ("fanout", {"CPU": "fanout_exact"}),
    "feed store": ("feed_store", {"CPU": "feed_store_cpu", "disk": "feed_store_disk"}),
    "post store": ("post_store", {"CPU": "post_store_cpu", "disk": "post_store_disk"}),
    "cache": ("cache", {"memory and CPU": "cache_exact"}),
    "queue": ("queue", {"CPU and disk": "queue_exact"}),
}


class Plan:
    """Every line's value by name (`plan["servers"]`), the steps in order, and the roles."""

    def __init__(self, scale: float, workload: Workload, steps: list[Step]) -> None:
        self.scale = scale
        self.workload = workload
        self.steps = steps
        self._values = {step.line.name: step.value for step in steps}

    def __getitem__(self, name: str) -> float:
        return self._values[name]

    def values(self) -> dict[str, float]:
        """Value by line."""
        return dict(self._values)

    @property
    def fits_one_node(self) -> bool:
        """One machine carries all roles together: what the embedded profile is for."""
        return sum(role.exact for role in self.roles()) < 1.0

    def roles(self) -> list[Role]:
        """Nodes by role, in the order of a request's way."""
        return [
            Role(
                name,
                self[f"{prefix}_exact"],
                int(self[f"{prefix}_nodes"]),
                max(resources, key=lambda resource: self[resources[resource]]),
            )
            for name, (prefix, resources) in ROLES.items()
        ]


def plan(workload: Workload, figures: Figures, scale: float = 1.0) -> Plan:
    """What `scale` times the workload's users ask for. Raises InvalidField.

    Rates of a user and the spread of followers are those at 1x.
    """
    if not SCALE_MIN <= scale <= SCALE_MAX:
        raise InvalidField("scale", f"{scale:g}", f"from {SCALE_MIN:g} to {SCALE_MAX:g} times")
    free = figures["api_node_memory"] * figures["utilisation"]
    if free <= figures["content_cache"] + figures["timeline_cache"]:
        raise InvalidField(
            "figures.api_node_memory.value",
            f"{figures['api_node_memory']:g}",
            "enough that utilisation leaves room beside content_cache and timeline_cache",
        )
    given = {**CONSTANTS, **figures.values(), **workload.values(), "scale": scale}
    return Plan(scale, workload, evaluate(LINES, given, functions(workload.followers())))


def functions(followers: Followers) -> dict[str, Function]:
    """What formulas may call."""
    return {
        "pushed_per_post": followers.pushed_per_post,
        "pulled_per_viewer": followers.pulled_per_viewer,
        "posts_above": followers.posts_above,
        "share_above": followers.share_above,
        "fit_from": lambda *arguments: fit_from(followers, *arguments),
    }


def fit_from(
    followers: Followers,
    threshold: float,
    room: float,
    overhead: float,
    entries: float,
    activity: float,
) -> float:
    """Followers down to which timelines fit into `room` bytes, those with most readers first.

    `overhead` and `entries`: bytes of all accounts' timelines beside their entries, and in
    entries. At least the threshold: below it nobody is pulled.
    """

    def needed(count: float) -> float:
        return overhead * followers.share_above(count) + entries * followers.posts_above(
            count, activity
        )

    if needed(threshold) <= room:
        return threshold
    low, high = math.log(max(threshold, 1e-6)), math.log(followers.largest)
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        if needed(math.exp(middle)) > room:
            low = middle
        else:
            high = middle
    return math.exp(high)
