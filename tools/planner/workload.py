"""What a plan is made for: users and what they do, typed and bounded, and two presets.

Invariants: a `Workload` is within BOUNDS, each with its unit and reason; rates per user and the
spread of followers stay when a plan is scaled, the number of users grows. Not for what machines
can do: figures.py.
"""

from __future__ import annotations

import dataclasses
import math
from functools import lru_cache
from typing import NamedTuple

from feedcore.errors import InvalidField
from feedcore.limits import DAY_MS, INACTIVE_AFTER_MS, RETENTION_MS, SECOND_MS
from feedcore_planner.follows import Followers

DAY_S = DAY_MS // SECOND_MS


class Bound(NamedTuple):
    """The unit of a field and what it may be, ends included."""

    unit: str
    low: float
    high: float
    meaning: str


# Ends are where the arithmetic stops to mean something, not what a product should have.
BOUNDS: dict[str, Bound] = {
    "daily_users": Bound("users/day", 100, 1e11, "users who load a feed on a day"),
    "accounts_per_daily_user": Bound(
        "accounts", 1, 1_000, "accounts seen within 30 days, for each of the day's users"
    ),
    "loads_per_user": Bound("loads/day", 0.001, 100_000, "feed loads of a daily user, all pages"),
    "visits_per_user": Bound("visits/day", 0.001, 100_000, "times a daily user comes back"),
    "posts_per_user": Bound("posts/day", 0, 10_000, "posts of a daily user"),
    "load_peak_factor": Bound("x", 1, 1_000, "loads/s at the peak, of the day's mean"),
    "post_peak_factor": Bound("x", 1, 1_000, "posts/s at the peak, of the day's mean"),
    "followers_median": Bound("followers", 1, 1e9, "of an account"),
    "followers_mean": Bound("followers", 1, 1e9, "of an account; also whom an account follows"),
    "followers_max": Bound("followers", 2, 1e11, "of the largest account"),
    "activity_exponent": Bound(
        "exponent", 0, 1, "posts of an author grow with followers to this power; 0: not at all"
    ),
    "active_share": Bound("share", 0, 1, "followers seen within 30 days: nobody else is pushed to"),
    "push_threshold": Bound("followers", 0, 1e12, "authors with as many are pulled; 0: all"),
    "retention_days": Bound("days", 1, 365, "feed items and timelines are kept"),
    "peak_s": Bound("s", 1, DAY_S, "a peak lasts"),
    "freshness_s": Bound("s", 0.1, DAY_S, "fan-out may lag behind at the end of a peak"),
}

assert INACTIVE_AFTER_MS == 30 * DAY_MS  # the 30 days in BOUNDS


@dataclasses.dataclass(frozen=True)
class Workload:
    """Inputs of a plan at 1x; units and meaning of each field are in BOUNDS.

    Raises InvalidField for a field out of its bounds, or for fields that contradict each other.
    """

    daily_users: float
    loads_per_user: float
    posts_per_user: float
    followers_median: float
    followers_mean: float
    followers_max: float
    push_threshold: float
    visits_per_user: float = 2.0
    accounts_per_daily_user: float = 2.0
    load_peak_factor: float = 4.0
    post_peak_factor: float = 4.0
    activity_exponent: float = 0.0
    active_share: float = 1.0
    retention_days: float = RETENTION_MS / DAY_MS
    peak_s: float = 3_600.0
    freshness_s: float = 60.0

    def __post_init__(self) -> None:
        for name, bound in BOUNDS.items():
            value = getattr(self, name)
            # A value that is not a number is in no interval.
            if not bound.low <= value <= bound.high:
                raise InvalidField(
                    name, f"{value:,.12g}", f"from {bound.low:,g} to {bound.high:,g} {bound.unit}"
                )
        if self.visits_per_user > self.loads_per_user:
            raise InvalidField(
                "visits_per_user",
                f"{self.visits_per_user:,g}",
                f"at most loads_per_user, {self.loads_per_user:,g}: a visit begins with a load",
            )
        if self.followers_max >= self.daily_users * self.accounts_per_daily_user:
            raise InvalidField(
                "followers_max",
                f"{self.followers_max:,.0f}",
                "below the number of accounts,"
                f" {self.daily_users * self.accounts_per_daily_user:,.0f}",
            )
        self.followers()

    def followers(self) -> Followers:
        """The spread of followers, fitted to the accounts there are at 1x."""
        return _fitted(
            self.followers_median,
            self.followers_mean,
            self.followers_max,
            self.daily_users * self.accounts_per_daily_user,
        )

    def replace(self, **changes: float) -> Workload:
        """A copy with other values."""
        return dataclasses.replace(self, **changes)

    def values(self) -> dict[str, float]:
        """Every field by name, in the order of BOUNDS."""
        return {name: float(getattr(self, name)) for name in BOUNDS}


@lru_cache(maxsize=64)  # a sweep asks for the same few again and again
def _fitted(median: float, mean: float, largest: float, accounts: float) -> Followers:
    return Followers.fit(median, mean, largest, accounts)


DESIGN_USERS = 200_000_000
# The numbers feedcore is designed for: 12,000 loads/s and 1,200 posts/s on the day's mean, 50,000
# and 5,000 at the peak.
DESIGN = Workload(
    daily_users=DESIGN_USERS,
    loads_per_user=12_000 * DAY_S / DESIGN_USERS,
    posts_per_user=1_200 * DAY_S / DESIGN_USERS,
    load_peak_factor=50 / 12,
    post_peak_factor=50 / 12,
    followers_median=200,
    followers_mean=500,
    followers_max=50_000_000,
    push_threshold=10_000,
)
# The world of `feedcore demo`: 2,500 users, 20,000 posts in six days, as its followers are counted;
# what its users load is made up.
DEMO = Workload(
    daily_users=2_500,
    loads_per_user=5.0,
    posts_per_user=20_000 / 2_500 / 6,
    accounts_per_daily_user=1.0,
    followers_median=23,
    followers_mean=43.2,
    followers_max=1_800,
    push_threshold=800,
)
PRESETS = {"design": DESIGN, "demo": DEMO}

assert math.isclose(DESIGN.daily_users * DESIGN.loads_per_user, 12_000 * DAY_S)
