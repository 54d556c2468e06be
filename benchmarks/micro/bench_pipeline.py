"""The pure part of a page, compiled and in Python: merge, filter, rank, page, encode.

    python -m benchmarks.micro.bench_pipeline [--small]

Input, by a fixed seed: a stored feed of 500 entries and 20 timelines of 50; the viewer follows 500,
mutes 50, hides 20 items and has an affinity to 20 authors. The page of 20 carries contents of 300
bytes. Times are medians of rounds, in microseconds. --small measures nothing: it checks that both
sides give the results they gave when this was written.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import statistics
import struct
import time
from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

from benchmarks.micro.report import print_table
from feedcore.codecs import wire
from feedcore.domain import entry, ids, idset, merge, paging, ranking, visibility
from feedcore.limits import DAY_MS, WINDOW_ENTRIES

SEED = 20
NOW_MS = ids.EPOCH_MS + 700 * DAY_MS
STORED, TIMELINES, TIMELINE = 500, 20, 50
FOLLOWEES, MUTED, HIDDEN, AFFINITIES = 500, 50, 20, 20
PAGE, CONTENT_BYTES = 20, 300
ROUNDS, ROUND_NS = 21, 4_000_000  # odd, so that the median is a measurement; 4 ms a round
RESULT = "6ed9ee7d461fb335"  # of sha256 of what both sides answer; scores to nine digits


class Side(NamedTuple):
    """One implementation: compiled or twin."""

    name: str
    idset: ModuleType
    merge: ModuleType
    visibility: ModuleType
    ranking: ModuleType
    paging: ModuleType
    wire: ModuleType


def sides() -> list[Side]:
    """The twins, and the compiled modules if they are built."""
    twins = Side("Python", idset, merge, visibility, ranking, paging, wire)
    try:
        from feedcore import _native
        from feedcore._native.algorithms import merge as c_merge
        from feedcore._native.algorithms import paging as c_paging
        from feedcore._native.algorithms import ranking as c_ranking
        from feedcore._native.algorithms import visibility as c_visibility
        from feedcore._native.codecs import idset as c_idset
        from feedcore._native.codecs import wire as c_wire
    except ImportError as error:
        print(f"compiled modules are missing ({error}): measuring the twins alone")
        return [twins]
    assert _native is not None
    compiled = Side("compiled", c_idset, c_merge, c_visibility, c_ranking, c_paging, c_wire)
    return [compiled, twins]


class World:
    """The input, the same for every side."""

    def __init__(self) -> None:
        draw = random.Random(SEED)
        followees = draw.sample(range(1, 1 << 48), FOLLOWEES)

        def posts(number: int, authors: list[int]) -> bytes:
            made = []
            for sequence in range(number):
                ms = NOW_MS - draw.randrange(3 * DAY_MS)
                content_id = ids.make(ms, 0, 1, sequence)
                made.append(entry.pack(content_id, draw.choice(authors), draw.uniform(0.5, 1.5)))
            return merge.sort_entries(b"".join(made))

        self.sources = [posts(STORED, followees)]
        self.sources += [posts(TIMELINE, [author]) for author in followees[:TIMELINES]]
        strangers = draw.sample(range(1, 1 << 48), MUTED // 2)
        self.audience = visibility.Audience(
            viewer_id=7,
            followees=idset.pack_ids(followees),
            muted=idset.pack_ids(draw.sample(followees, MUTED // 2) + strangers),
            snoozed=b"",
            blocked=b"",
            hidden=idset.pack_ids(draw.sample(entry.content_ids(self.sources[0]), HIDDEN)),
            require_follow=True,
        )
        self.tombstones = [draw.getrandbits(62) for _ in range(1_000)]
        liked = sorted(followees[:AFFINITIES])
        self.affinity = b"".join(ranking.AFFINITY.pack(author, draw.random()) for author in liked)
        rates = [draw.choice([0.0, draw.uniform(0.0, 8.0)]) for _ in range(WINDOW_ENTRIES)]
        self.engagement = struct.pack(f"<{WINDOW_ENTRIES}f", *rates)
        self.contents = [draw.randbytes(CONTENT_BYTES) for _ in range(PAGE)]


class Pipeline:
    """One side's steps over the world; each step's input is the step's before."""

    def __init__(self, side: Side, world: World) -> None:
        self.side, self.world = side, world
        self.tombstones = side.idset.U64Set(world.tombstones)
        self.window = self.merge()
        self.verdicts = self.judge()
        self.scores = self.score()
        self.page = self.select()
        found = [entry.unpack(self.window)[place] for place in self.page.chosen]
        self.items = [
            (one.content_id, one.author_id, content, 5, 6, 7, score, 1)
            for one, content, score in zip(found, world.contents, self.page.scores, strict=True)
        ]

    def merge(self) -> bytes:
        return self.side.merge.merge_newest(self.world.sources, ids.ID_MAX, 0, WINDOW_ENTRIES)

    def judge(self) -> bytes:
        return self.side.visibility.judge(self.window, self.world.audience, self.tombstones)

    def score(self) -> bytes:
        return self.side.ranking.score(
            self.window,
            self.verdicts,
            self.world.engagement,
            self.world.affinity,
            b"",
            ranking.DEFAULT,
            NOW_MS,
        )

    def select(self) -> paging.Selection:
        return self.side.paging.select(
            self.window, self.verdicts, self.scores, b"", PAGE, ranking.DEFAULT, WINDOW_ENTRIES
        )

    def all_four(self) -> None:
        self.window = self.merge()
        self.verdicts = self.judge()
        self.scores = self.score()
        self.page = self.select()

    def encode(self) -> bytes:
        return self.side.wire.encode_page(self.items, "c" * 120, "h" * 44, "e" * 16, bytes(60), 0)

    def etag(self) -> str:
        return self.side.wire.page_etag(self.items, 1, True, 0)

    def result(self) -> str:
        """A digest of everything, with scores to nine digits."""
        text = hashlib.sha256(self.window + self.verdicts + self.page.served)
        scores = [f"{score:.9g}" for score in self.page.scores]
        text.update(repr((self.page.chosen, scores, self.page.low_water, self.etag())).encode())
        items = [(*item[:6], 0.5, 1) for item in self.items]
        text.update(self.side.wire.encode_page(items, "c", "h", "e", b"", 0))
        return text.hexdigest()[:16]


def median_us(step: Callable[[], object]) -> float:
    """Microseconds a call: the median over rounds of a few milliseconds."""
    step()
    begin = time.perf_counter_ns()
    step()
    calls = max(1, ROUND_NS // max(time.perf_counter_ns() - begin, 1))
    rounds = []
    for _ in range(ROUNDS):
        begin = time.perf_counter_ns()
        for _ in range(calls):
            step()
        rounds.append((time.perf_counter_ns() - begin) / calls / 1_000)
    return statistics.median(rounds)


def measure(pipelines: list[Pipeline]) -> None:
    """Prints the table: a column a side, and how many times faster the first is."""
    steps = {
        "merge 500 + 20 x 50": "merge",
        "filter 500": "judge",
        "rank 500": "score",
        "page of 20": "select",
        "merge + filter + rank + page": "all_four",
        "encode 20 items of 300 bytes": "encode",
        "etag": "etag",
    }
    rows = []
    for title, name in steps.items():
        times = [median_us(getattr(pipeline, name)) for pipeline in pipelines]
        cells = [f"{value:,.1f} us" for value in times]
        rows.append([title, *cells, f"{times[-1] / times[0]:,.0f}x"])
    names = [pipeline.side.name for pipeline in pipelines]
    print_table(f"Pipeline (seed {SEED}, medians)", ["step", *names, "ratio"], rows)


def main() -> None:
    """Checks the results; without --small, also measures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--small", action="store_true", help="check results, not times")
    small = parser.parse_args().small
    world = World()
    pipelines = [Pipeline(side, world) for side in sides()]
    for pipeline in pipelines:
        seen = pipeline.result()
        assert seen == RESULT, f"{pipeline.side.name}: result {seen}; {RESULT}"
    print(f"results as expected: {', '.join(pipeline.side.name for pipeline in pipelines)}")
    if not small:
        measure(pipelines)


if __name__ == "__main__":
    main()
