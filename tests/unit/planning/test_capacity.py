"""The plan: the design's own numbers, extremes of the threshold, growth with load, units."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedcore import config, limits
from feedcore.domain.entry import ENTRY_BYTES
from feedcore.errors import InvalidField
from feedcore_planner.capacity import LINES, ROLES, plan
from feedcore_planner.figures import shipped
from feedcore_planner.sheet import Line, evaluate
from feedcore_planner.workload import BOUNDS, DEMO, DESIGN

FIGURES = shipped()
# What may not shrink when there is more to do.
COSTS = ("servers", "cores", "needed_cores", "stored_bytes", "resident_bytes", "cache_bytes")
UNITS_OF_NAMES = {
    "_bytes": "bytes",
    "_memory": ("bytes", "nodes"),
    "_cores": "cores",
    "_nodes": "nodes",
    "_exact": "nodes",
    "_us": "us",
    "_mean": ("loads/s", "posts/s", "deliveries/s"),
    "_peak": ("loads/s", "posts/s", "deliveries/s", "visits/s"),
    "_day": ("posts/day", "deliveries/day"),
    "_disk": "nodes",
    "_cpu": "nodes",
}


def test_the_designs_own_numbers_come_out() -> None:
    made = plan(DESIGN, FIGURES)
    assert made["loads_mean"] == pytest.approx(12_000)
    assert made["loads_peak"] == pytest.approx(50_000)
    assert made["posts_mean"] == pytest.approx(1_200)
    assert made["posts_peak"] == pytest.approx(5_000)
    # "push to everybody is 50 B writes/day", "pull for everybody is 25 M queries/s"
    assert made["deliveries_all_day"] == pytest.approx(50e9, rel=0.05)
    assert made["timelines_all"] == pytest.approx(25e6, rel=1e-6)


def test_storage_and_cores_by_hand() -> None:
    # Figures of this test, whatever benchmarks come to say.
    figures = FIGURES.replace(
        feed_item_bytes=20.5, row_overhead_bytes=20, edge_bytes=16, residency_s=3_600
    ).replace(window_bytes=6_144, expansions_per_core=846_020, store_insert_us=16)
    made = plan(DESIGN, figures)
    items = made["deliveries_day"] * 7
    assert made["feed_bytes"] == pytest.approx(items * (20.5 + 20) * 3)
    assert made["graph_bytes"] == pytest.approx(400e6 * 500 * 2 * 16 * 3)
    assert made["window_memory"] == pytest.approx(50_000 * 2 / 5.184 * 3_600 * 6_144)
    seconds = made["deliveries_rate"] * (1 / 846_020 + 16e-6)
    assert made["fanout_cores"] == pytest.approx(seconds / 0.6)
    assert made["fanout_nodes"] == math.ceil(seconds / 0.6 / 16) + 2


def test_a_peak_ends_with_the_backlog_that_the_lag_allows() -> None:
    made = plan(DESIGN.replace(freshness_s=300.0), FIGURES)
    left = (made["deliveries_peak"] - made["deliveries_rate"]) * DESIGN.peak_s
    assert left == pytest.approx(made["queue_backlog"])
    assert left / made["deliveries_rate"] == pytest.approx(300.0)


def test_threshold_above_the_largest_is_pure_push() -> None:
    made = plan(DESIGN.replace(push_threshold=DESIGN.followers_max * 2), FIGURES)
    assert made["deliveries_day"] == made["deliveries_all_day"]
    assert made["pulled_authors"] == made["timelines"] == made["timeline_bytes"] == 0
    assert made["timelines_read"] == 0


def test_threshold_zero_is_pure_pull() -> None:
    made = plan(DESIGN.replace(push_threshold=0), FIGURES)
    assert made["deliveries_day"] == made["fanout_cores"] == made["feed_bytes"] == 0
    assert made["pulled_authors"] == pytest.approx(500)
    assert made["timelines"] == pytest.approx(made["accounts"])
    assert 0 < made["timelines_read"] < made["pulled_authors"]


def test_followers_who_stay_away_are_not_pushed_to() -> None:
    half = plan(DESIGN.replace(active_share=0.5), FIGURES)
    assert half["deliveries_day"] == pytest.approx(plan(DESIGN, FIGURES)["deliveries_day"] / 2)
    assert plan(DESIGN.replace(active_share=0.0), FIGURES)["feed_bytes"] == 0


def test_loads_are_hot_cold_or_warm() -> None:
    for visits in (0.5, 2.0, DESIGN.loads_per_user):
        made = plan(DESIGN.replace(visits_per_user=visits), FIGURES)
        parts = [made["hot_peak"], made["cold_peak"], made["warm_peak"]]
        assert math.fsum(parts) == pytest.approx(made["loads_peak"])
        assert min(parts) >= 0


def test_timelines_that_fit_are_not_read() -> None:
    roomy = FIGURES.replace(
        timeline_cache=100e9, api_node_memory=512e9, timeline_overhead_bytes=140.0
    )
    made = plan(DESIGN.replace(push_threshold=0), roomy)
    assert made["timeline_bytes"] < 100e9
    assert made["timelines_read"] == 0


def test_what_is_resident_fills_the_cache_exactly_when_there_is_too_much() -> None:
    workload = DESIGN.replace(push_threshold=100)
    made = plan(workload, FIGURES)
    followers = workload.followers()
    fitting = made["timelines_from"]
    kept = made["accounts"] * followers.share_above(fitting) * FIGURES["timeline_overhead_bytes"]
    kept += made["entries_kept"] * followers.posts_above(fitting) * 20
    assert kept == pytest.approx(FIGURES["timeline_cache"])


@given(
    st.floats(1e-4, 1e4),
    st.floats(1.0, 100.0),
    st.sampled_from([0.0, 500.0, 10_000.0, 1e6, 1e9]),
    st.sampled_from([0.0, 0.5, 1.0]),
)
def test_more_users_never_ask_for_less(
    scale: float, growth: float, threshold: float, activity: float
) -> None:
    workload = DESIGN.replace(push_threshold=threshold, activity_exponent=activity)
    before, after = plan(workload, FIGURES, scale), plan(workload, FIGURES, scale * growth)
    for cost in COSTS:
        assert after[cost] >= before[cost] * (1 - 1e-9), cost


@given(
    st.sampled_from(
        ["loads_per_user", "posts_per_user", "load_peak_factor", "post_peak_factor"]
        + ["retention_days", "activity_exponent", "visits_per_user"]
    ),
    st.floats(1.0, 2.5),
    st.sampled_from([0.0, 1_000.0, 10_000.0, 1e9]),
)
def test_users_who_do_more_never_ask_for_less(field: str, growth: float, threshold: float) -> None:
    workload = DESIGN.replace(push_threshold=threshold)
    value = getattr(workload, field)
    changed = 0.4 * growth if field == "activity_exponent" else value * growth
    before, after = plan(workload, FIGURES), plan(workload.replace(**{field: changed}), FIGURES)
    for cost in COSTS:
        # Authors who post more the larger they are leave fewer deliveries if those are pulled.
        if field != "activity_exponent" or threshold >= DESIGN.followers_max:
            assert after[cost] >= before[cost] * (1 - 1e-9), (field, cost)


def test_a_role_has_what_its_scarcest_resource_asks_for() -> None:
    for scale in (1, 10, 100):
        made = plan(DESIGN, FIGURES, scale)
        for role in made.roles():
            _, resources = ROLES[role.name]
            assert role.exact == max(made[line] for line in resources.values())
            assert made[resources[role.binds]] == role.exact
            assert role.nodes >= math.ceil(role.exact) + 2
        assert made["servers"] == sum(role.nodes for role in made.roles())


def test_names_have_the_units_they_end_with() -> None:
    found = set()
    for line in LINES:
        assert line.unit, line.name
        for suffix, units in UNITS_OF_NAMES.items():
            if line.name.endswith(suffix):
                found.add(suffix)
                assert line.unit in units if isinstance(units, tuple) else line.unit == units, line
    assert found == UNITS_OF_NAMES.keys()


def test_a_small_world_fits_one_machine_and_the_design_does_not() -> None:
    assert plan(DEMO, FIGURES).fits_one_node
    assert not plan(DESIGN, FIGURES).fits_one_node


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf])
def test_scales_out_of_bounds_are_refused(scale: float) -> None:
    with pytest.raises(InvalidField, match="scale: .*from 1e-06 to 1e.06 times"):
        plan(DESIGN, FIGURES, scale)


def test_a_node_without_room_for_windows_is_refused() -> None:
    with pytest.raises(InvalidField, match="api_node_memory"):
        plan(DESIGN, FIGURES.replace(api_node_memory=20e9))


@pytest.mark.parametrize("field", BOUNDS)
def test_inputs_are_held_to_their_bounds(field: str) -> None:
    bound = BOUNDS[field]
    for value in (bound.low - 1.0, bound.high * 1.01, math.nan):
        with pytest.raises(InvalidField) as refused:
            DESIGN.replace(**{field: value})
        assert refused.value.field == field
        assert bound.unit in refused.value.bound


def test_inputs_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(InvalidField, match="visits_per_user: 6; at most loads_per_user"):
        DESIGN.replace(visits_per_user=6.0)
    with pytest.raises(InvalidField, match="followers_max: 50,000,000; below the number of"):
        DESIGN.replace(daily_users=1e6)


def test_constants_are_those_of_the_engine() -> None:
    from feedcore.loading import demo
    from feedcore_planner import bottleneck

    assert FIGURES["page_items"] == limits.PAGE_SIZE_DEFAULT
    assert FIGURES["entry_bytes"] == ENTRY_BYTES
    assert FIGURES["post_days"] * limits.DAY_MS == limits.POST_AGE_MAX_MS
    assert DESIGN.retention_days * limits.DAY_MS == limits.RETENTION_MS
    assert bottleneck.NODE_NUMBERS == config.NODE_MAX
    assert config.FanoutSettings.model_fields["push_threshold"].default == DESIGN.push_threshold
    assert (DEMO.daily_users, DEMO.push_threshold) == (
        demo.DEMO_USERS,
        demo.DEMO_PUSH_THRESHOLD,
    )
    assert DEMO.posts_per_user * 6 * demo.DEMO_USERS == pytest.approx(demo.DEMO_POSTS)


def test_the_demo_preset_has_the_followers_of_the_demo_world() -> None:
    from collections import Counter
    from statistics import fmean, median

    from feedcore.loading.demo import DEMO_USERS, DemoWorld

    counts = Counter(edge.target_id for edge in DemoWorld(1_700_000_000_000).follows())
    followers = [counts[user] for user in range(1, DEMO_USERS + 1)]
    assert DEMO.followers_median == pytest.approx(median(followers), rel=0.1)
    assert DEMO.followers_mean == pytest.approx(fmean(followers), rel=0.05)
    assert DEMO.followers_max == pytest.approx(max(followers), rel=0.1)


def test_formulas_name_what_is_there_and_no_name_twice() -> None:
    with pytest.raises(NameError):
        evaluate([Line("", "a", "b + 1", "x", "")], {}, {})
    with pytest.raises(ValueError, match="a is given twice"):
        evaluate([Line("", "a", "1", "x", "")], {"a": 2.0}, {})
    with pytest.raises(NameError):  # nothing of Python but what is given
        evaluate([Line("", "a", "open", "x", "")], {}, {})


def test_steps_show_what_went_in() -> None:
    lines = [Line("", "b", "a * 2", "x", ""), Line("", "c", "max(a, b)", "x", "")]
    steps = evaluate(lines, {"a": 3.0}, {})
    assert [(step.value, step.inputs) for step in steps] == [
        (6.0, {"a": 3.0}),
        (6.0, {"a": 3.0, "b": 6.0}),
    ]
