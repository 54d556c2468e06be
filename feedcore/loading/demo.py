"""The demo world: a seeded social network small enough for a laptop, shaped like a real one.

Invariant: the same seed and time give the same rows. A few celebrities have more than
DEMO_PUSH_THRESHOLD followers, so that push, pull and their merge can all be seen. Not for
benchmarks: those draw their own load.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

from feedcore import limits
from feedcore.loading.batches import Batch, in_batches
from feedcore.loading.demo_text import sentence
from feedcore.loading.readers import Line
from feedcore.loading.rows import Edge
from feedcore.services.importing import InteractionRow, PostRow

DEMO_SEED = 20_240_101
DEMO_USERS = 2_500
DEMO_POSTS = 20_000
DEMO_INTERACTIONS = 40_000
DEMO_PUSH_THRESHOLD = 800  # seven celebrities above it, everybody else below
DEMO_VIEWER = 42  # an ordinary user with a full feed: the one whose feed is printed
SPREAD_MS = (
    6 * limits.DAY_MS
)  # one day inside retention, so that the world lasts a day before it thins out

POPULARITY_EXPONENT = (
    0.75  # of the rank, for being followed: celebrities near 1,000, the median near 30
)
ACTIVITY_EXPONENT = (
    0.6  # of the rank, for posting: busy accounts post a few hundred times in six days
)
FOLLOWS_MEDIAN = 35
FOLLOWS_SIGMA = 0.7  # of the log-normal number of accounts a user follows
FOLLOWS_MAX = 400
MUTES = 120
LIKES_EXPONENT = 1.1  # Pareto tail of likes
# Posts an hour over a day, relative, UTC: quiet at night, busy in the evening.
HOURLY = (3, 2, 1, 1, 1, 2, 4, 6, 8, 8, 7, 7, 8, 8, 7, 7, 7, 8, 9, 11, 12, 10, 8, 5)


class DemoWorld:
    """Rows of the demo world, drawn lazily."""

    def __init__(self, now_ms: int, seed: int = DEMO_SEED) -> None:
        self._now_ms = now_ms
        self._seed = seed

    def follows(self) -> Iterator[Edge]:
        """Who follows whom: numbers log-normal, targets by a power law of their rank."""
        draw = random.Random(f"{self._seed} follows")
        users = range(1, DEMO_USERS + 1)
        weights = _cumulative(POPULARITY_EXPONENT)
        for user in users:
            wanted = min(
                FOLLOWS_MAX, max(5, int(draw.lognormvariate(0, FOLLOWS_SIGMA) * FOLLOWS_MEDIAN))
            )
            # The viewer whose feed is printed shows pushed and pulled authors with every seed.
            chosen: set[int] = {1, 2, 3} if user == DEMO_VIEWER else set()
            # Twice the number wanted: repeats and oneself are dropped, and the loop still ends.
            for target in draw.choices(users, cum_weights=weights, k=2 * wanted):
                if target != user and len(chosen) < wanted:
                    chosen.add(target)
            for target in sorted(chosen):
                yield Edge(user, target)

    def mutes(self) -> Iterator[Edge]:
        """A few users mute somebody well known."""
        draw = random.Random(f"{self._seed} mutes")
        for user in sorted(draw.sample(range(100, DEMO_USERS + 1), MUTES)):
            yield Edge(user, draw.randint(1, 60))

    def posts(self) -> Iterator[PostRow]:
        """Posts, oldest first, at times that follow the hours of the day."""
        draw = random.Random(f"{self._seed} posts")
        authors = draw.choices(
            range(1, DEMO_USERS + 1), cum_weights=_cumulative(ACTIVITY_EXPONENT), k=DEMO_POSTS
        )
        for number, (at_ms, author) in enumerate(zip(self._times(draw), authors, strict=True)):
            likes = min(5_000, int(draw.paretovariate(LIKES_EXPONENT)) - 1)
            yield PostRow(
                f"demo-{number}",
                author,
                at_ms,
                sentence(draw),
                likes,
                likes // draw.randint(4, 12),
                likes // draw.randint(8, 30),
            )

    def interactions(self) -> Iterator[InteractionRow]:
        """Users react to recent posts, mostly those of well known authors."""
        draw = random.Random(f"{self._seed} interactions")
        posts = [(row.post_key, row.author_id, row.at_ms) for row in self.posts()]
        kinds = draw.choices(
            ("like", "comment", "share", "click"), weights=(60, 12, 8, 20), k=DEMO_INTERACTIONS
        )
        for kind in kinds:
            # The larger of two draws leans towards newer posts.
            place = max(draw.randrange(DEMO_POSTS), draw.randrange(DEMO_POSTS))
            key, author, posted_ms = posts[place]
            at_ms = min(self._now_ms, posted_ms + int(draw.expovariate(1 / limits.HOUR_MS)))
            yield InteractionRow(draw.randint(1, DEMO_USERS), key, author, 0, kind, at_ms)

    def batches(self, list_name: str) -> Iterator[Batch]:
        """One list in batches; made-up rows stand on no line."""
        rows = getattr(self, list_name)()
        return in_batches(list_name, (Line(0, row) for row in rows))

    def _times(self, draw: random.Random) -> list[int]:
        start_ms = self._now_ms - SPREAD_MS
        hours = SPREAD_MS // limits.HOUR_MS
        weights = [HOURLY[(start_ms // limits.HOUR_MS + hour) % 24] for hour in range(hours)]
        picked = draw.choices(range(hours), weights=weights, k=DEMO_POSTS)
        return sorted(
            start_ms + hour * limits.HOUR_MS + draw.randrange(limits.HOUR_MS) for hour in picked
        )


def _cumulative(exponent: float) -> list[float]:
    """Cumulative weights of the users' ranks: rank^-exponent."""
    return list(itertools.accumulate(rank**-exponent for rank in range(1, DEMO_USERS + 1)))
