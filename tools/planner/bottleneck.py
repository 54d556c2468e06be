"""What breaks first: each resource of a plan against what one node, or one cluster, can be.

Job: rank the resources of a plan by how full they are, and say at which scale each is full.
Invariants: a bound has its reason and a remedy beside it; the first bottleneck is the fullest
resource of those that are full or will be as users grow. Not for what more nodes of a role cure
below its cluster's bound: capacity.py counts those.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from feedcore.limits import PULLED_SOURCES_MAX
from feedcore_planner.capacity import SCALE_MAX, SCALE_MIN, Plan, plan
from feedcore_planner.figures import Figures
from feedcore_planner.workload import Workload

# Repair, compaction and changes of topology involve every node, and an operator looks at each:
# larger clusters are run, by few.
STORE_NODES_MAX = 300
# The Redis Cluster specification recommends at most about 1,000 nodes: they gossip with each other.
CACHE_NODES_MAX = 1_000
# Each member that comes or goes makes a consumer group share out its partitions again.
CONSUMERS_MAX = 1_000
# Each feed node hears of every post by a pulled author, and each caller knows every node.
FEED_NODES_MAX = 1_000
# 7 bits of a content id, less one number that imports use; in each of 32 regions.
NODE_NUMBERS = 126
BISECTIONS = 40  # of ln scale: far below what is printed


class Resource(NamedTuple):
    """`demand` of a plan, to be at most `bound`; both in `unit`. `grows`: more users fill it; else
    only the threshold and the figures do."""

    name: str
    unit: str
    demand: Callable[[Plan], float]
    bound: Callable[[Plan, Figures], float]
    reason: str
    remedy: str
    grows: bool = True


def of(line: str) -> Callable[[Plan], float]:
    """Demand: one line of the plan."""
    return lambda made: made[line]


def at_most(value: float) -> Callable[[Plan, Figures], float]:
    """A bound that no input changes."""
    return lambda made, figures: value


RESOURCES = (
    Resource(
        "feed store",
        "nodes",
        of("feed_store_exact"),
        at_most(STORE_NODES_MAX),
        "repairs and changes of topology involve every node of a cluster",
        "lower the push threshold (the sweep says how far); write deliveries as packed chunks, not"
        " rows; then several clusters, by ranges of users",
    ),
    Resource(
        "post store",
        "nodes",
        of("post_store_exact"),
        at_most(STORE_NODES_MAX),
        "as for the feed store",
        "keep timelines resident (a larger timeline_cache, a higher threshold); keep posts for less"
        " than 30 days; then clusters of their own for posts, timelines and graph",
    ),
    Resource(
        "cache",
        "nodes",
        of("cache_exact"),
        at_most(CACHE_NODES_MAX),
        "nodes of a Redis Cluster gossip; its specification recommends at most 1,000",
        "several clusters, by ranges of users; or none: feed nodes keep windows themselves",
    ),
    Resource(
        "fan-out consumers",
        "processes",
        of("consumers"),
        at_most(CONSUMERS_MAX),
        "a consumer group shares out its partitions whenever a member comes or goes",
        "several topics, by ranges of authors; fewer deliveries through a lower threshold",
    ),
    Resource(
        "feed nodes",
        "nodes",
        of("feed_exact"),
        at_most(FEED_NODES_MAX),
        "each hears of every post by a pulled author, and each caller knows every node",
        "nodes with more memory, or cells: ranges of users with feed nodes of their own",
    ),
    Resource(
        "author timelines on each feed node",
        "bytes",
        of("timeline_bytes"),
        lambda made, figures: figures["timeline_cache"],
        "every node keeps the same ones: more nodes do not help",
        "more memory for them, or a higher threshold; what does not fit is read from the store"
        " with each page",
    ),
    Resource(
        "publishing processes",
        "processes",
        of("publish_cores"),
        at_most(NODE_NUMBERS),
        "a content id has 7 bits for the process that made it, and one number is for imports",
        "publish in several of the 32 regions that an id can name",
    ),
    Resource(
        "fan-out of one post",
        "s",
        lambda made: (
            min(made.workload.push_threshold, made.workload.followers_max)
            * made["delivery_us"]
            / 1e6
        ),
        lambda made, figures: made.workload.freshness_s,
        "the largest author who is pushed, delivered by one process",
        "lower the push threshold",
        grows=False,
    ),
    Resource(
        "pulled authors of a page",
        "authors",
        of("pulled_authors"),
        at_most(PULLED_SOURCES_MAX),
        "timelines that one load merges; above, those the user engages with most are taken",
        "raise the push threshold",
        grows=False,
    ),
)


class Use(NamedTuple):
    """A resource in a plan: `ratio` = demand / bound; above 1 it is exceeded."""

    resource: Resource
    demand: float
    bound: float

    @property
    def ratio(self) -> float:
        return self.demand / self.bound


def use(resource: Resource, made: Plan, figures: Figures) -> Use:
    """How full one resource is."""
    return Use(resource, resource.demand(made), resource.bound(made, figures))


def uses(made: Plan, figures: Figures) -> list[Use]:
    """All resources, the first bottleneck on top: the fullest, before those that no growth fills
    and that are not full."""
    found = [use(resource, made, figures) for resource in RESOURCES]
    found.sort(key=lambda one: (one.resource.grows or one.ratio >= 1.0, one.ratio), reverse=True)
    return found


def full_at(resource: Resource, workload: Workload, figures: Figures) -> float:
    """The scale at which the resource is full; inf if it never is."""
    return _scale_where(
        lambda scale: use(resource, plan(workload, figures, scale), figures).ratio >= 1.0
    )


def one_node_up_to(role: str, workload: Workload, figures: Figures) -> float:
    """The scale up to which one node (and the spares) carries a role of capacity.ROLES."""

    def too_much(scale: float) -> bool:
        roles = {found.name: found for found in plan(workload, figures, scale).roles()}
        return roles[role].exact >= 1.0

    return _scale_where(too_much)


def _scale_where(is_full: Callable[[float], bool]) -> float:
    """The least scale at which this holds; it holds for every larger one."""
    if not is_full(SCALE_MAX):
        return math.inf
    low, high = math.log(SCALE_MIN), math.log(SCALE_MAX)
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        if is_full(math.exp(middle)):
            high = middle
        else:
            low = middle
    return math.exp(high)
