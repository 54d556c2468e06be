"""Who follows whom, who is active, who posts what: drawn from a seed, or read from a file.

Follower counts follow a power law: a Lomax distribution with median 200 and mean 500, cut at a
large share of all users, times `scale` for worlds too small for that. Activity is Zipf. Invariant:
the same parameters give the same graph, posts and weights. Not for storing them (building).
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

from feedcore.loading.demo_text import sentence
from feedcore.loading.readers import BadLine, Source

# Lomax: P(X > x) = (1 + x / L)^-A. Its mean is L / (A - 1), its median L (2^(1/A) - 1): the mean
# is 2.5 times the median at A = 1.92, and the median 200 at L = 460.
TAIL = 1.92
LOMAX_SCALE = 460.0
CELEBRITY_SHARE = 0.6  # of all users, that follow the best known: the cut of the tail
ACTIVITY_EXPONENT = 0.8  # of the rank: the busiest hundredth makes about a quarter of the loads
POSTING_EXPONENT = 0.5  # of the rank by activity: most post now and then
EAGERNESS_SIGMA = 0.6  # log-normal: some follow many, most a few hundred
EAGERNESS_MAX = 16
SPREAD_MS = 6 * 86_400_000  # posts lie in six days: a day inside retention
LIKES_TAIL = 1.1  # Pareto exponent of likes
SAMPLE_ALL_ABOVE = 0.3  # share of users from which followers are drawn without regard to eagerness


def follower_counts(users: int, scale: float = 1.0) -> list[int]:
    """Followers of each rank, most first: quantiles of the distribution, so that the statistics
    of a world do not depend on luck."""
    most = int(users * CELEBRITY_SHARE)
    counts = []
    for rank in range(users):
        above = (rank + 0.5) / users
        counts.append(min(most, round(LOMAX_SCALE * scale * (above ** (-1 / TAIL) - 1))))
    return counts


class Graph:
    """Users 1 to `users`. `popularity` and `activity` list them by rank, most first."""

    def __init__(self, users: int, seed: int, scale: float = 1.0) -> None:
        self.ids: array[int] = array("Q", range(1, users + 1))
        self._seed = seed
        draw = random.Random(f"{seed} ranks")
        self.popularity = list(self.ids)
        draw.shuffle(self.popularity)
        counts = follower_counts(users, scale)
        self._wanted = dict(zip(self.popularity, counts, strict=True))
        self.activity = activity_order(self.popularity, seed)

    def follower_lists(self) -> Iterator[tuple[int, list[int]]]:
        """(author, followers ascending), authors ascending; those without followers are left
        out."""
        draw = random.Random(f"{self._seed} follows")
        users = len(self.ids)
        slots: list[int] = []
        for user in self.ids:
            eager = round(draw.lognormvariate(0, EAGERNESS_SIGMA) * 2)
            slots += [user] * min(EAGERNESS_MAX, max(1, eager))
        for author in self.ids:
            wanted = min(self._wanted[author], users - 1)
            if wanted > users * SAMPLE_ALL_ABOVE:
                chosen = set(draw.sample(self.ids, wanted))
                chosen.discard(author)
            else:
                chosen = set()
                while len(chosen) < wanted:
                    chosen.update(draw.choices(slots, k=wanted - len(chosen)))
                    chosen.discard(author)
            if chosen:
                yield author, sorted(chosen)


class FileGraph:
    """A graph of an edge list (follower, followee), held in memory."""

    def __init__(self, path: Path, seed: int) -> None:
        followers: dict[int, array[int]] = {}
        users: set[int] = set()
        for line in Source(path).edges():
            if isinstance(line, BadLine):
                continue
            follower, followee = line.row
            users.add(follower)
            users.add(followee)
            followers.setdefault(followee, array("Q")).append(follower)
        self.ids: array[int] = array("Q", sorted(users))
        self._followers = followers
        self.popularity = sorted(
            users, key=lambda user: (-len(followers.get(user, ())), user), reverse=False
        )
        self.activity = activity_order(self.popularity, seed)

    def follower_lists(self) -> Iterator[tuple[int, list[int]]]:
        """As `Graph.follower_lists`."""
        for author in sorted(self._followers):
            chosen = set(self._followers[author])
            chosen.discard(author)
            if chosen:
                yield author, sorted(chosen)


def activity_order(popularity: list[int], seed: int) -> list[int]:
    """Users by activity: unrelated to who follows them, but the same for the same seed."""
    order = sorted(popularity)
    random.Random(f"{seed} activity").shuffle(order)
    return order


def zipf_weights(count: int, exponent: float = ACTIVITY_EXPONENT) -> list[float]:
    """Cumulative weights of ranks 1 to `count`."""
    return list(accumulate(rank**-exponent for rank in range(1, count + 1)))


def posts_for(counts: list[int], items: float, exponent: float) -> int:
    """Posts that make `items` a user on average, by authors drawn by their rank in `counts`."""
    weights = [rank**-exponent for rank in range(1, len(counts) + 1)]
    reach: float = sum(w * c for w, c in zip(weights, counts, strict=True)) / sum(weights)
    return max(1, round(items * len(counts) / reach))


def posts(
    authors: list[int], count: int, now_ms: int, seed: int, exponent: float = POSTING_EXPONENT
) -> Iterator[tuple[int, int, str, tuple[str, ...], int]]:
    """(published_at_ms, author, body, media uris, likes), oldest first. The first of `authors` post
    most."""
    draw = random.Random(f"{seed} posts")
    weights = zipf_weights(len(authors), exponent)
    chosen = draw.choices(authors, cum_weights=weights, k=count)
    moments = sorted(now_ms - 60_000 - draw.randrange(SPREAD_MS) for _ in range(count))
    for at_ms, author in zip(moments, chosen, strict=True):
        body = sentence(draw)
        for _ in range(draw.choices((0, 1, 3), (6, 3, 1))[0]):
            body += " " + sentence(draw)
        media: tuple[str, ...] = ()
        if draw.random() < 0.3:
            media = (f"https://media.example/{draw.getrandbits(64):016x}.jpg",)
        likes = min(50_000, int(draw.paretovariate(LIKES_TAIL)) - 1)
        yield at_ms, author, body, media, likes
