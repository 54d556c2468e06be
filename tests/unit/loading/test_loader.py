"""The loader: shifting, counting, batching and continuing; against a sink that keeps what it
gets.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from feedcore import limits
from feedcore.loading.batches import (
    BATCH_BYTES_MAX,
    BATCH_ROWS_MAX,
    Batch,
    in_batches,
    row_bytes,
)
from feedcore.loading.demo import (
    DEMO_POSTS,
    DEMO_PUSH_THRESHOLD,
    DEMO_USERS,
    DEMO_VIEWER,
    DemoWorld,
)
from feedcore.loading.loader import BAD_LINES_SHOWN, Job, ShiftMemory, find_shift, load
from feedcore.loading.readers import BadLine, Line
from feedcore.loading.rows import Edge, PostRow
from feedcore.services.importing import ImportOutcome, Refusal

NOW_MS = 1_800_000_000_000


class KeepingSink:
    """Keeps rows in sets: what is there already is unchanged. Refuses posts of author 13."""

    def __init__(self) -> None:
        self.rows: dict[object, object] = {}

    async def stream(self, batches: Iterator[Batch]) -> AsyncIterator[tuple[Batch, ImportOutcome]]:
        for batch in batches:
            applied = unchanged = 0
            refused = []
            for name in ("follows", "mutes", "posts", "interactions"):
                for index, row in enumerate(getattr(batch, name)):
                    key = (
                        (name, row.author_id, row.post_key)
                        if isinstance(row, PostRow)
                        else (name, row)
                    )
                    if isinstance(row, PostRow) and row.author_id == 13:
                        refused.append(Refusal("posts", index, "author_id: 13; unlucky"))
                    elif key in self.rows:
                        unchanged += 1
                    else:
                        self.rows[key] = row
                        applied += 1
            yield batch, ImportOutcome(applied, unchanged, refused)


def files(tmp_path: Path) -> Job:
    follows = tmp_path / "follows"
    follows.write_text("1 2\n1 3\n1 2\nnobody 1\n")
    posts = tmp_path / "posts"
    day = limits.DAY_MS
    rows = [
        ("old", 2, 1),
        ("edge", 2, 3 * day),
        ("in", 2, 3 * day + 1),
        ("refused", 13, 9 * day),
        ("new", 3, 10 * day),
    ]
    lines = [f"{key},{author},{at_ms},text" for key, author, at_ms in rows]
    posts.write_text("post_key,author_id,at_ms,body\n" + "\n".join(lines) + "\n")
    return Job(follows=follows, posts=posts, rebase_ms=NOW_MS)


async def test_every_line_is_counted_once_and_times_are_shifted(tmp_path: Path) -> None:
    job, sink = files(tmp_path), KeepingSink()
    seen: list[tuple[str, int, int]] = []
    shift = find_shift(job)
    assert shift == NOW_MS - 10 * limits.DAY_MS
    follows, posts = await load(job, sink, NOW_MS, shift, lambda *step: seen.append(step))
    assert (follows.rows, follows.applied, follows.unchanged, follows.bad) == (4, 2, 1, 1)
    assert (posts.rows, posts.applied, posts.expired, posts.bad) == (5, 2, 2, 1)
    assert posts.shown == [BadLine(str(job.posts), 5, "author_id: 13; unlucky")]
    assert sink.rows["posts", 3, "new"].at_ms == NOW_MS
    assert seen[0][1] == 0 and seen[-1][1] == seen[-1][2]


async def test_loading_twice_changes_nothing(tmp_path: Path) -> None:
    job, sink = files(tmp_path), KeepingSink()
    await load(job, sink, NOW_MS, find_shift(job), lambda *_: None)
    before = dict(sink.rows)
    reports = await load(job, sink, NOW_MS + 5_000, find_shift(job), lambda *_: None)
    assert sink.rows == before
    assert [report.applied for report in reports] == [0, 0]


async def test_without_a_shift_the_future_is_refused(tmp_path: Path) -> None:
    posts = tmp_path / "posts"
    posts.write_text(
        f"post_key,author_id,at_ms,body\na,1,{NOW_MS + 5_000},t\nb,1,{NOW_MS + 5_001},t\n"
    )
    (report,) = await load(Job(posts=posts), KeepingSink(), NOW_MS, 0, lambda *_: None)
    assert (report.applied, report.bad) == (1, 1)
    assert "5001 ms in the future" in report.shown[0].reason


async def test_only_the_first_bad_lines_are_kept_but_all_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "mutes"
    path.write_text("1 x\n" * 1_000)
    (report,) = await load(Job(mutes=path), KeepingSink(), NOW_MS, 0, lambda *_: None)
    assert (report.bad, len(report.shown)) == (1_000, BAD_LINES_SHOWN)
    assert report.shown[-1].line == BAD_LINES_SHOWN


def test_batches_are_bounded_in_rows_and_bytes() -> None:
    edges = [Line(n, Edge(n, n + 1)) for n in range(1, 2 * BATCH_ROWS_MAX + 2)]
    assert [len(batch) for batch in in_batches("follows", edges)] == [
        BATCH_ROWS_MAX,
        BATCH_ROWS_MAX,
        1,
    ]
    long = [
        Line(n, PostRow(str(n), 1, 1, "\N{GRINNING FACE}" * 10_000, 0, 0, 0)) for n in range(200)
    ]
    batches = list(in_batches("posts", long))
    assert sum(len(batch) for batch in batches) == 200
    assert all(sum(map(row_bytes, batch.posts)) <= BATCH_BYTES_MAX for batch in batches)
    assert [line for batch in batches for line in batch.lines["posts"]] == list(range(200))


def test_the_shift_of_an_interrupted_load_is_remembered_for_a_day(tmp_path: Path) -> None:
    memory = ShiftMemory(tmp_path / "state" / "load.json")
    assert memory.recall("a", NOW_MS) is None
    memory.remember("a", 77, NOW_MS)
    assert memory.recall("a", NOW_MS + limits.DAY_MS) == 77
    assert memory.recall("b", NOW_MS) is None
    assert memory.recall("a", NOW_MS + limits.DAY_MS + 1) is None
    memory.forget()
    assert memory.recall("a", NOW_MS) is None
    memory.forget()


def test_fingerprints_tell_loads_apart(tmp_path: Path) -> None:
    job = files(tmp_path)
    before = job.fingerprint("a")
    assert before == job.fingerprint("a") != job.fingerprint("b")
    assert job.follows is not None
    job.follows.write_text("1 2\n")
    assert job.fingerprint("a") != before


@pytest.mark.parametrize("seed", [1, 2])
def test_the_demo_world_has_the_promised_shape(seed: int) -> None:
    world = DemoWorld(NOW_MS, seed)
    follows = list(world.follows())
    followers: dict[int, int] = {}
    for edge in follows:
        followers[edge.target_id] = followers.get(edge.target_id, 0) + 1
    celebrities = [user for user, count in followers.items() if count >= DEMO_PUSH_THRESHOLD]
    assert len({edge.source_id for edge in follows}) == DEMO_USERS >= 2_000
    assert len(follows) == len(set(follows))
    assert 3 <= len(celebrities) <= 12
    followed = {edge.target_id for edge in follows if edge.source_id == DEMO_VIEWER}
    assert followed & set(celebrities) and followed - set(celebrities)
    posts = list(world.posts())
    times = [post.at_ms for post in posts]
    assert len(posts) == len({post.post_key for post in posts}) == DEMO_POSTS >= 20_000
    assert times == sorted(times) and times[0] >= NOW_MS - 6 * limits.DAY_MS and times[-1] <= NOW_MS
    assert posts == list(DemoWorld(NOW_MS, seed).posts())
