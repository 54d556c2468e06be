"""Real follows, mutes and posts, loaded and served by a real server, against an oracle made from
the raw files.

Once with everybody pushed, once with everybody pulled, once with a threshold in the middle that
moves meanwhile. 200 users drawn by seed; all of them in the long run.
"""

from __future__ import annotations

import math
import os
import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from feedcore_pb.v1 import admin_pb2, feed_pb2, types_pb2
from tests.support.oracle import RETENTION_MS, RawPost, World
from tests.support.server import ServerProcess, feedcore

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
SEED = 20_240_601
USERS_SHORT = 200
LONG = os.environ.get("FEEDCORE_LONG") == "1"
# Posts this close to the retention bound may leave while the test runs.
BOUND_MARGIN_MS = 30 * 60_000
MIDDLE = 120  # followers: about half of the posting accounts of this graph are above

pytestmark = pytest.mark.skipif(
    not DATA.is_dir(), reason=f"REAL INPUT IS MISSING: {DATA.name} is not beside the project"
)


def scroll(server: ServerProcess, user: int) -> list[types_pb2.FeedItem]:
    """The whole feed, page by page; each page's order is checked on the way."""
    items: list[types_pb2.FeedItem] = []
    cursor = ""
    while True:
        page = server.feed.GetFeed(
            feed_pb2.GetFeedRequest(user_id=user, page_size=100, cursor=cursor)
        )
        assert not page.receipt.degraded
        scores = [item.score for item in page.items]
        assert scores == sorted(scores, reverse=True), f"user {user}: page out of order"
        assert len(page.next_cursor) <= 2048
        if page.receipt.origin != types_pb2.FEED_ORIGIN_TRENDING:
            items += page.items
        if not cursor:
            check_scores(page, user)
        cursor = page.next_cursor
        if not cursor:
            return items


def check_scores(page: feed_pb2.GetFeedResponse, user: int) -> None:
    """The scores of a first page, computed again from what the page itself shows and the documented
    formula.
    """
    seen: Counter[int] = Counter()
    for item in page.items:
        age_h = (page.receipt.generated_at_ms - item.published_at_ms) / 3_600_000
        weighted = item.counts.likes + 2 * item.counts.comments + 3 * item.counts.shares
        base = 2 ** (-age_h / 12) * (1 + 0.25 * math.log1p(weighted))
        expected = base * max(0.6 ** seen[item.author_id], 0.1)
        seen[item.author_id] += 1
        assert item.score == pytest.approx(expected, rel=2e-3), f"user {user}: {item.content_id}"


def check_user(server: ServerProcess, world: World, user: int, now_ms: int) -> str:
    """Empty if the user's whole feed is what the oracle says, else what is wrong."""
    items = scroll(server, user)
    ids = [item.content_id for item in items]
    if len(set(ids)) != len(ids):
        return f"user {user}: {len(ids) - len(set(ids))} items twice"
    served = Counter(
        RawPost(
            item.author_id,
            item.published_at_ms,
            item.content.body,
            item.counts.likes,
            item.counts.comments,
        )
        for item in items
    )
    certain = world.feed(user, now_ms - RETENTION_MS + BOUND_MARGIN_MS)
    possible = world.feed(user, now_ms - RETENTION_MS - BOUND_MARGIN_MS)
    missing, unexpected = certain - served, served - possible
    if not world.follows[user]:
        return ""
    if missing or unexpected:
        return f"user {user}: {missing.total()} missing, {unexpected.total()} unexpected"
    return ""


def load(server: ServerProcess, newest_ms: int) -> None:
    """The files through the running server."""
    result = feedcore(
        "load",
        *("--server", server.address),
        *("--follows", str(DATA / "follows.tsv.gz")),
        *("--mutes", str(DATA / "mutes.tsv.gz")),
        *("--posts", str(DATA / "posts.csv.gz")),
        *("--rebase-newest-to", str(newest_ms)),
    )
    assert result.returncode == 0, result.stderr


def wait_until_fanned_out(server: ServerProcess) -> None:
    """Until no job and no delivery waits: so that the stored feeds, not the overlay, are what is
    compared.
    """
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        status = server.admin.GetStatus(admin_pb2.GetStatusRequest())
        assert not status.dead_letters
        if not status.merge_backlog and not any(lane.jobs for lane in status.lanes):
            return
        time.sleep(0.2)
    raise AssertionError("fan-out did not finish in 300 s")


@pytest.mark.parametrize("threshold", [2**32, 0, MIDDLE], ids=["pushed", "pulled", "moving"])
def test_whole_feeds_equal_the_oracle(tmp_path: Path, threshold: int) -> None:
    newest_ms = time.time_ns() // 1_000_000 - 60_000
    world = World.read(DATA, newest_ms)
    users = sorted(world.follows)
    if not LONG:
        users = random.Random(SEED).sample(users, USERS_SHORT)
    with ServerProcess(tmp_path / "data", workers=2) as server:
        server.admin.SetSettings(admin_pb2.SetSettingsRequest(push_threshold=threshold))
        load(server, newest_ms)
        if threshold != MIDDLE:
            wait_until_fanned_out(server)
            assert find_faults(server, world, users) == []
            return
        # While the threshold moves up and down, no feed may ever lack or repeat anything.
        for step, moved in enumerate((MIDDLE, 10, 400, 0, 2**32, MIDDLE)):
            server.admin.SetSettings(admin_pb2.SetSettingsRequest(push_threshold=moved))
            part = users[step::6]
            assert find_faults(server, world, part) == [], f"threshold {moved}"
        wait_until_fanned_out(server)
        assert find_faults(server, world, users[:40]) == []


def find_faults(server: ServerProcess, world: World, users: list[int]) -> list[str]:
    """What is wrong with any of the users' feeds."""
    now_ms = time.time_ns() // 1_000_000
    with ThreadPoolExecutor(4) as pool:
        told = pool.map(lambda user: check_user(server, world, user, now_ms), users)
        return [fault for fault in told if fault]
