"""The spread of followers: fitted to what is given, and its closed forms against a drawn sample."""

from __future__ import annotations

import itertools
import math
import operator
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedcore.errors import InvalidField
from feedcore_planner.follows import Followers, density
from feedcore_planner.workload import DEMO, DESIGN

SAMPLE = 300_000
SEED = 20_260_101
THRESHOLDS = (0.0, 50.0, 1_000.0, 10_000.0, 200_000.0)


def drawn(followers: Followers, count: int) -> list[float]:
    """Followers of `count` accounts, drawn from the definition: body or tail by their masses, the
    body by rejection, the tail by inversion, above the largest again."""
    draw = random.Random(SEED)
    join_z = followers.tail_exponent * followers.sigma
    body = 0.5 * math.erfc(-join_z / math.sqrt(2.0))
    tail = density(join_z) / join_z
    found = []
    while len(found) < count:
        if draw.random() * (body + tail) < body:
            z = draw.gauss(0.0, 1.0)
            while z > join_z:
                z = draw.gauss(0.0, 1.0)
            found.append(math.exp(followers.mu + followers.sigma * z))
            continue
        value = followers.join * (1.0 - draw.random()) ** (-1.0 / followers.tail_exponent)
        if value <= followers.largest:
            found.append(value)
    return found


@pytest.fixture(scope="module")
def design() -> Followers:
    return DESIGN.followers()


@pytest.fixture(scope="module")
def sample(design: Followers) -> list[float]:
    return drawn(design, SAMPLE)


def near(sampled: list[float], expected: float) -> None:
    """Within five standard errors of the sample's mean."""
    mean = math.fsum(sampled) / len(sampled)
    spread = math.fsum(map(operator.mul, sampled, sampled)) / len(sampled) - mean * mean
    assert abs(mean - expected) <= 5.0 * math.sqrt(spread / len(sampled)) + 1e-12


@pytest.mark.parametrize("threshold", THRESHOLDS)
@pytest.mark.parametrize("activity", [0.0, 0.4])
def test_closed_forms_are_those_of_a_drawn_sample(
    design: Followers, sample: list[float], threshold: float, activity: float
) -> None:
    near([float(value >= threshold) for value in sample], design.share_above(threshold))
    posts = design.moment(activity)
    near(
        [value**activity * (value >= threshold) / posts for value in sample],
        design.posts_above(threshold, activity),
    )
    near(
        [value ** (1.0 + activity) * (value < threshold) / posts for value in sample],
        design.pushed_per_post(threshold, activity),
    )
    # Up to a million: above it a sample of this size has too few accounts to mean anything.
    near(
        [value * (threshold <= value < 1e6) for value in sample],
        design.pulled_per_viewer(threshold, 1e6),
    )


@pytest.mark.parametrize("workload", [DESIGN, DEMO])
def test_median_mean_and_largest_are_the_given_ones(workload: object) -> None:
    assert isinstance(workload, type(DESIGN))
    followers = workload.followers()
    accounts = workload.daily_users * workload.accounts_per_daily_user
    assert followers.mean() == pytest.approx(workload.followers_mean, rel=1e-9)
    assert followers.share_above(workload.followers_median) == pytest.approx(
        0.5, abs=1.0 / accounts
    )
    assert followers.share_above(followers.largest * (1.0 + 1e-12)) == 0.0
    # One account is expected above the largest by a tail that is not cut.
    at_join = density(followers.tail_exponent * followers.sigma) / (
        followers.tail_exponent * followers.sigma
    )
    uncut = at_join * (followers.join / followers.largest) ** followers.tail_exponent
    assert accounts * uncut == pytest.approx(1.0, rel=0.02)


@given(
    st.floats(5.0, 1_000.0),
    st.floats(0.01, 0.99),
    st.floats(100.0, 1e6),
    st.floats(1e4, 1e10),
)
def test_any_possible_three_numbers_are_met(
    median: float, place: float, largest_ratio: float, accounts: float
) -> None:
    largest = median * largest_ratio
    with pytest.raises(InvalidField) as refused:
        Followers.fit(median, largest, largest, accounts)
    least, most = possible(refused.value)
    mean = least + place * (most - least)
    followers = Followers.fit(median, mean, largest, accounts)
    assert followers.mean() == pytest.approx(mean, rel=1e-6)
    assert followers.share_above(median) == pytest.approx(0.5, abs=1.0 / accounts + 1e-9)
    assert followers.moment(0.0) == pytest.approx(1.0)


def possible(error: InvalidField) -> tuple[float, float]:
    """The means that a refusal calls possible, as printed: four digits, drawn in a little."""
    assert error.field == "followers_mean"
    words = error.bound.replace(",", "").split()
    return float(words[1]) * 1.001, float(words[3]) * 0.999


def test_density_is_smooth_at_the_join(design: Followers) -> None:
    step = 1e-3
    cuts = [design.join * math.exp(step * place) for place in (-2, -1, 0, 1, 2)]
    masses = [design.moment(0.0, low, high) for low, high in itertools.pairwise(cuts)]
    slopes = [math.log(after / before) / step for before, after in itertools.pairwise(masses)]
    # d ln(x f) / d ln x = -a on both sides, and no step between them.
    assert slopes == pytest.approx([-design.tail_exponent] * 3, rel=2e-3)


def test_quantiles_invert_shares(design: Followers) -> None:
    for share in (0.01, 0.5, 0.9, 0.999, 0.999_999):
        assert design.share_above(design.quantile(share)) == pytest.approx(1.0 - share, rel=1e-6)


def test_push_and_pull_share_out_the_follows(design: Followers) -> None:
    for threshold in THRESHOLDS:
        pushed = design.pushed_per_post(threshold)
        assert pushed + design.pulled_per_viewer(threshold) == pytest.approx(500.0)
        assert design.pulled_per_viewer(threshold, threshold) == 0.0


@pytest.mark.parametrize("mean", [201.0, 1e6])
def test_impossible_means_are_refused_with_the_possible_ones(mean: float) -> None:
    with pytest.raises(InvalidField, match="followers_mean.*from 356.1 to 1,915"):
        Followers.fit(200.0, mean, 50e6, 400e6)


def test_a_median_above_the_largest_is_refused() -> None:
    with pytest.raises(InvalidField, match="followers_max: 100; above the median of 200"):
        Followers.fit(200.0, 500.0, 100.0, 1e6)
