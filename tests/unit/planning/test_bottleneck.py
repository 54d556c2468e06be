"""What breaks first: the fullest resource, the scale at which each is full, the sweep's least."""

from __future__ import annotations

import math

import pytest

from feedcore.errors import InvalidField
from feedcore_planner import bottleneck
from feedcore_planner.bottleneck import RESOURCES, full_at, one_node_up_to, use, uses
from feedcore_planner.capacity import ROLES, plan
from feedcore_planner.figures import shipped
from feedcore_planner.sweep import THRESHOLDS, sweep
from feedcore_planner.workload import DESIGN

FIGURES = shipped()


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda resource: resource.name)
def test_a_resource_is_full_at_the_scale_that_is_named(resource: bottleneck.Resource) -> None:
    assert resource.reason and resource.remedy
    scale = full_at(resource, DESIGN, FIGURES)
    if math.isinf(scale):
        assert not resource.grows
        return
    before, after = (plan(DESIGN, FIGURES, scale * factor) for factor in (0.999, 1.001))
    assert use(resource, before, FIGURES).ratio < 1.0 < use(resource, after, FIGURES).ratio


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda resource: resource.name)
def test_users_fill_what_is_said_to_grow(resource: bottleneck.Resource) -> None:
    one, ten = (use(resource, plan(DESIGN, FIGURES, scale), FIGURES).ratio for scale in (1, 10))
    assert (ten > one) == resource.grows


def test_the_first_bottleneck_is_the_fullest_that_grows() -> None:
    for scale in (0.01, 1, 100):
        found = uses(plan(DESIGN, FIGURES, scale), FIGURES)
        assert {one.resource.name for one in found} == {one.name for one in RESOURCES}
        growing = [one.ratio for one in found if one.resource.grows]
        assert growing == sorted(growing, reverse=True)
        assert found[: len(growing)] == [one for one in found if one.resource.grows]


def test_what_is_full_is_on_top_whether_it_grows_or_not() -> None:
    found = uses(plan(DESIGN.replace(push_threshold=10e6), FIGURES), FIGURES)
    assert found[0].resource.name == "fan-out of one post"
    assert found[0].ratio > 1.0


def test_a_smaller_bound_moves_the_first_bottleneck() -> None:
    tight = FIGURES.replace(timeline_cache=2e8, timeline_overhead_bytes=140.0)
    first = uses(plan(DESIGN, tight), tight)[0]
    assert first.resource.name == "author timelines on each feed node"
    assert first.ratio == pytest.approx(0.926, abs=0.01)


def test_a_threshold_that_one_process_cannot_push_in_time_is_full_at_any_scale() -> None:
    (resource,) = (one for one in RESOURCES if one.name == "fan-out of one post")
    high = DESIGN.replace(push_threshold=10e6)
    assert full_at(resource, high, FIGURES) < 1e-5
    assert math.isinf(full_at(resource, DESIGN, FIGURES))


@pytest.mark.parametrize("role", ROLES)
def test_one_node_carries_up_to_where_it_needs_a_second(role: str) -> None:
    scale = one_node_up_to(role, DESIGN, FIGURES)
    exact = {
        factor: next(
            found.exact
            for found in plan(DESIGN, FIGURES, scale * factor).roles()
            if found.name == role
        )
        for factor in (0.999, 1.001)
    }
    assert exact[0.999] < 1.0 < exact[1.001]


def test_the_sweep_goes_from_pull_to_push() -> None:
    made = sweep(DESIGN, FIGURES)
    assert [point.threshold for point in made.points] == list(THRESHOLDS)
    assert (THRESHOLDS[0], THRESHOLDS[-1]) == (100, 10_000_000)
    for low, high in zip(made.points, made.points[1:], strict=False):
        assert low.deliveries_rate < high.deliveries_rate
        assert low.pulled_authors > high.pulled_authors
        assert low.stored_bytes < high.stored_bytes


def test_the_least_is_marked_and_lies_between_the_ends() -> None:
    made = sweep(DESIGN, FIGURES)
    assert made.cheapest.cores == min(point.cores for point in made.points)
    assert made.smallest.held_bytes == min(point.held_bytes for point in made.points)
    assert THRESHOLDS[0] < made.cheapest.threshold < THRESHOLDS[-1]


def test_dearer_pulling_moves_the_least_up_and_dearer_pushing_down() -> None:
    least = sweep(DESIGN, FIGURES).cheapest.threshold
    pull = FIGURES.replace(timeline_merge_us=40.0)
    push = FIGURES.replace(store_writes_per_core=1_250.0, timeline_cache=16e9)
    assert sweep(DESIGN, pull).cheapest.threshold > least
    assert sweep(DESIGN, push).cheapest.threshold < least


def test_a_point_is_the_plan_of_its_threshold() -> None:
    (one,) = sweep(DESIGN, FIGURES, 3.0, (5_000.0,)).points
    made = plan(DESIGN.replace(push_threshold=5_000.0), FIGURES, 3.0)
    assert one.cores == made["needed_cores"]
    assert one.feed_node_cores + one.store_cores + one.fanout_cores < one.cores
    with pytest.raises(InvalidField, match="push_threshold"):
        sweep(DESIGN, FIGURES, 1.0, (-1.0,))
