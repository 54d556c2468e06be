"""How followers are spread over accounts: a log-normal body with a power-law tail, in closed form.

Job: fit three numbers that people know (median, mean, largest) and answer what push and pull cost
below and above a number of followers. Invariants: the density is continuous and smooth at the
join; the mean is the given one, and so is the median, but for one account's rank (the cut at M
takes one away); nothing is above the largest. Followers are a real number here, not a count: below
about one follower the model means nothing, and nothing asks for it there. Not for drawing worlds:
the load generator does that.

The shape is the composite log-normal-Pareto of Cooray and Ananda, "Modeling actuarial data with a
composite lognormal-Pareto model" (Scandinavian Actuarial Journal, 2005), with the free mixing
weight of Scollnik, "On composite lognormal-Pareto models" (same journal, 2007):

    f(x) = phi((ln x - mu) / s) / (s x T)                 0 < x <= c
    f(x) = (phi(a s) / (s T)) c^a / x^(a + 1)              c < x <= M

Body and tail have the same slope at c exactly when c = exp(mu + a s^2). The mass of the body is
Phi(a s) and that of the endless tail phi(a s) / (a s), both over T, which makes their sum 1 (with
the tail cut at M). So two numbers are left to fit, s and a, from two conditions:

- the mean;
- the largest of N accounts has M followers: N P(X > M) = 1 for the tail before it is cut, the
  characteristic largest value of Gumbel, "Statistics of Extremes" (1958), section 3.1.4.
"""

from __future__ import annotations

import math
from statistics import NormalDist

from feedcore.errors import InvalidField

BISECTIONS = 64  # halvings of an interval of doubles: more change nothing
# Widths looked at for the least mean: below about 0.5 a narrower body no longer lowers it, since
# the tail begins earlier and makes up for it.
WIDTHS = 64
ACCOUNTS_MIN = 100  # fewer have no distribution to speak of
_NORMAL = NormalDist()
_ROOT_2 = math.sqrt(2.0)


def below(z: float) -> float:
    """Phi(z): the share of a standard normal below z, exact in both tails."""
    return 0.5 * math.erfc(-z / _ROOT_2)


def density(z: float) -> float:
    """phi(z), the standard normal's density."""
    return math.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)


def power_integral(exponent: float, low: float, high: float) -> float:
    """Integral of x^(exponent - 1) from low to high (0 < low <= high)."""
    log_ratio = math.log(high / low)
    if abs(exponent * log_ratio) < 1e-9:
        return log_ratio
    return float(low**exponent) * math.expm1(exponent * log_ratio) / exponent


class Followers:
    """The distribution of an account's followers.

    `mu` and `sigma` of the body (of ln followers), `tail_exponent` a of P(X > x) ~ x^-a, `join` c
    and `largest` M in followers. Made by `fit`.
    """

    def __init__(self, mu: float, sigma: float, tail_exponent: float, largest: float) -> None:
        self.mu = mu
        self.sigma = sigma
        self.tail_exponent = tail_exponent
        self.largest = largest
        join_z = tail_exponent * sigma
        self.join = min(math.exp(mu + join_z * sigma), largest)
        self._top_z = (math.log(self.join) - mu) / sigma
        # c^a phi(a s) / s: what x^-(a + 1) is multiplied with, before T; a few hundred decimal
        # exponents are in c^a alone, so that it stays a logarithm.
        self._log_tail = tail_exponent * math.log(self.join) + math.log(
            max(density(self._top_z), 1e-300) / sigma
        )
        self._total = 1.0
        self._total = self.moment(0.0)

    @classmethod
    def fit(cls, median: float, mean: float, largest: float, accounts: float) -> Followers:
        """The distribution with this median and mean whose largest of `accounts` is `largest`.

        All in followers but `accounts`. Raises InvalidField where no such distribution exists, with
        the means that are possible.
        """
        if not 0 < median < largest:
            raise InvalidField(
                "followers_max", f"{largest:,.0f}", f"above the median of {median:,.0f}"
            )
        # At this s the body alone has one account above the largest: there is no tail.
        widest = math.log(largest / median) / -_NORMAL.inv_cdf(1.0 / max(accounts, ACCOUNTS_MIN))

        def mean_of(sigma: float) -> float:
            return cls._with_sigma(sigma, median, largest, accounts).mean()

        widths = [widest * step / WIDTHS for step in range(1, WIDTHS + 1)]
        low, high = min(widths, key=mean_of), widest
        least, most = mean_of(low), mean_of(high)
        if not least <= mean <= most:
            raise InvalidField(
                "followers_mean",
                f"{mean:,.4g}",
                f"from {least:,.4g} to {most:,.4g} with a median of {median:,.4g} and"
                f" {largest:,.4g} for the largest of {accounts:,.4g} accounts",
            )
        for _ in range(BISECTIONS):
            middle = 0.5 * (low + high)
            if mean_of(middle) < mean:
                low = middle
            else:
                high = middle
        return cls._with_sigma(high, median, largest, accounts)

    @classmethod
    def _with_sigma(cls, sigma: float, median: float, largest: float, accounts: float) -> Followers:
        """The tail that fits a body of this width: ln N P(X > M) grows towards the body as a falls,
        so a bisection finds a."""
        low, high = 0.0, math.log(largest / median) / sigma**2
        for _ in range(BISECTIONS):
            tail = 0.5 * (low + high)
            total, mu = cls._placed(sigma, tail, median)
            # ln of N P(X > M) before the cut: phi(k) / (k T) (c / M)^a with k = a s
            k = tail * sigma
            log_expected = (
                math.log(accounts)
                - 0.5 * k * k
                - 0.5 * math.log(2.0 * math.pi)
                - math.log(k * total)
                - tail * (math.log(largest) - mu - k * sigma)
            )
            if log_expected > 0.0:
                low = tail
            else:
                high = tail
        tail = 0.5 * (low + high)
        return cls(cls._placed(sigma, tail, median)[1], sigma, tail, largest)

    @staticmethod
    def _placed(sigma: float, tail: float, median: float) -> tuple[float, float]:
        """(T, mu) that put the median where it belongs. The cut at M is left out: it takes away one
        account of all."""
        k = tail * sigma
        total = below(k) + density(k) / k
        if total >= 2.0 * below(k):  # the median is in the tail: half of the mass is above it
            # P(X > x) = (phi(k) / (k T)) (c / x)^a = 1/2
            log_ratio = math.log(2.0 * density(k) / (k * total)) / tail
            return total, math.log(median) - k * sigma - log_ratio
        return total, math.log(median) - sigma * _NORMAL.inv_cdf(0.5 * total)

    def moment(self, power: float, low: float = 0.0, high: float = math.inf) -> float:
        """Integral of x^power f(x) from low to high followers.

        Body: exp(p mu + p^2 s^2 / 2) (Phi(z - p s) between the ends); tail: a power of x.
        """
        high = min(high, self.largest)
        if high <= low:
            return 0.0
        body = 0.0
        if low < self.join:
            top = min((math.log(min(high, self.join)) - self.mu) / self.sigma, self._top_z)
            from_z = (math.log(low) - self.mu) / self.sigma if low > 0.0 else -math.inf
            shift = power * self.sigma
            share = below(top - shift) - below(from_z - shift)
            body = math.exp(power * self.mu + 0.5 * shift * shift) * share
        tail = 0.0
        if high > self.join:
            start = max(low, self.join)
            # Relative to its start, so that no power leaves the range of doubles.
            scale = self._log_tail + (power - self.tail_exponent) * math.log(start)
            tail = math.exp(scale) * power_integral(power - self.tail_exponent, 1.0, high / start)
        return (body + tail) / self._total

    def mean(self) -> float:
        """Followers of an account: E[X]; also the accounts that an account follows, as each follow
        has two ends."""
        return self.moment(1.0)

    def share_above(self, followers: float) -> float:
        """Share of accounts with at least so many followers: P(X >= x)."""
        return self.moment(0.0, followers)

    def quantile(self, share: float) -> float:
        """Followers that this share of accounts stays below (0 < share < 1)."""
        low, high = math.log(1e-9), math.log(self.largest)
        for _ in range(BISECTIONS):
            middle = 0.5 * (low + high)
            if self.share_above(math.exp(middle)) > 1.0 - share:
                low = middle
            else:
                high = middle
        return math.exp(high)

    def posts_above(self, followers: float, activity: float = 0.0) -> float:
        """Share of posts by authors with at least so many followers.

        An author posts in proportion to X^activity: E[X^b; X >= x] / E[X^b]. With 0 all accounts
        post alike.
        """
        return self.moment(activity, followers) / self.moment(activity)

    def pushed_per_post(self, threshold: float, activity: float = 0.0) -> float:
        """Deliveries a post, over all posts, if authors below the threshold are pushed:
        E[X^(1 + b); X < x] / E[X^b]. Without a threshold and with b = 0: the mean."""
        return self.moment(1.0 + activity, 0.0, threshold) / self.moment(activity)

    def pulled_per_viewer(self, low: float, high: float = math.inf) -> float:
        """Authors from `low` to below `high` followers that one account follows, on average.

        A follow leads to an author in proportion to the author's followers: (mean followed) x
        E[X; low <= X < high] / E[X] = E[X; low <= X < high], since the mean followed is E[X].
        """
        return self.moment(1.0, low, high)
