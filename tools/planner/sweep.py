"""Cost against the push/pull threshold: the same workload, planned for one threshold after another.

Push costs the feed store a write for each follower; pull costs every load a merge for each pulled
author, and memory for timelines on every feed node until they no longer fit. Invariants: the points
are in order of threshold; a cheapest point is one of them. Not for choosing by anything but cost:
a high threshold makes fan-out slow, a low one makes loads of people who follow many slow.
"""

from __future__ import annotations

from typing import NamedTuple

from feedcore_planner.capacity import plan
from feedcore_planner.figures import Figures
from feedcore_planner.workload import Workload

# 1, 2, 5 in each decade from 100 (nearly everybody is pulled) to 10 M (nearly nobody).
THRESHOLDS = tuple(float(step * 10**decade) for decade in range(2, 7) for step in (1, 2, 5)) + (
    1e7,
)


class Point(NamedTuple):
    """What one threshold costs. Cores before rounding and spares, so that small differences show;
    `held_bytes`: stored in all copies, in the shared cache and resident on feed nodes."""

    threshold: float
    cores: float
    held_bytes: float
    stored_bytes: float
    feed_node_cores: float
    store_cores: float
    fanout_cores: float
    deliveries_rate: float
    pulled_authors: float
    timelines_read: float


class Sweep(NamedTuple):
    """`cheapest`: the point with the least cores; `smallest`: with the least bytes."""

    points: tuple[Point, ...]
    cheapest: Point
    smallest: Point


def sweep(
    workload: Workload,
    figures: Figures,
    scale: float = 1.0,
    thresholds: tuple[float, ...] = THRESHOLDS,
) -> Sweep:
    """One point a threshold. Raises InvalidField."""
    points = tuple(
        point(workload.replace(push_threshold=threshold), figures, scale)
        for threshold in sorted(thresholds)
    )
    return Sweep(
        points,
        min(points, key=lambda one: one.cores),
        min(points, key=lambda one: one.held_bytes),
    )


def point(workload: Workload, figures: Figures, scale: float = 1.0) -> Point:
    """The cost of the workload's own threshold."""
    made = plan(workload, figures, scale)
    return Point(
        threshold=workload.push_threshold,
        cores=made["needed_cores"],
        held_bytes=made["stored_bytes"] + made["cache_bytes"] + made["resident_bytes"],
        stored_bytes=made["stored_bytes"],
        feed_node_cores=made["feed_exact"] * figures["api_node_cores"],
        store_cores=(made["feed_store_exact"] + made["post_store_exact"])
        * figures["store_node_cores"],
        fanout_cores=made["fanout_exact"] * figures["api_node_cores"],
        deliveries_rate=made["deliveries_rate"],
        pulled_authors=made["pulled_authors"],
        timelines_read=made["timelines_read"],
    )
