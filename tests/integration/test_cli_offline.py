"""The command line on a store without a server: load --data-dir, rebuild, and what refuses them."""

from __future__ import annotations

import json
from pathlib import Path

from feedcore_pb.v1 import feed_pb2
from tests.support.server import ServerProcess, feedcore

POSTS = 300
FOLLOWERS = 40


def write_world(folder: Path) -> list[str]:
    """Users 1 to 40 follow authors 101 to 110, who post in turn; the flags that load it."""
    follows, posts = folder / "follows", folder / "posts.jsonl"
    edges = [f"{user},{author}" for user in range(1, FOLLOWERS + 1) for author in range(101, 111)]
    follows.write_text("\n".join(edges) + "\n")
    rows = [
        {
            "post_key": f"p{n}",
            "author_id": 101 + n % 10,
            "at_ms": 1_000_000 + n,
            "body": f"post {n}",
        }
        for n in range(POSTS)
    ]
    posts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ["--follows", str(follows), "--posts", str(posts), "--rebase-newest-to", "now"]


def whole_feed(server: ServerProcess, user: int) -> list[tuple[int, str]]:
    found, cursor = [], ""
    while True:
        page = server.feed.GetFeed(
            feed_pb2.GetFeedRequest(user_id=user, page_size=100, cursor=cursor)
        )
        found += [(item.content_id, item.content.body) for item in page.items]
        cursor = page.next_cursor
        if not cursor:
            return found


def test_load_without_a_server_then_serve_then_rebuild(tmp_path: Path) -> None:
    data = tmp_path / "data"
    flags = [*write_world(tmp_path), "--data-dir", str(data)]
    loaded = feedcore("load", *flags)
    assert f"posts: {POSTS} rows: {POSTS} loaded" in loaded.stdout
    assert "follows: 100 %" in loaded.stderr and "posts: 100 %" in loaded.stderr
    again = feedcore("load", *flags).stdout
    assert f"posts: {POSTS} rows: 0 loaded, {POSTS} there already" in again
    with ServerProcess(data) as server:
        before = {user: whole_feed(server, user) for user in (1, FOLLOWERS)}
        refused = feedcore("rebuild", "--data-dir", str(data), check=False)
        assert refused.returncode == 1 and "Traceback" not in refused.stderr
        # Beside a server, a load leaves fan-out to the server.
        beside = feedcore("load", *flags).stdout
        assert f"0 loaded, {POSTS} there already" in beside
    assert sorted(body for _, body in before[1]) == sorted(f"post {n}" for n in range(POSTS))
    feedcore("rebuild", "--data-dir", str(data))
    with ServerProcess(data) as server:
        assert {user: sorted(whole_feed(server, user)) for user in before} == {
            user: sorted(feed) for user, feed in before.items()
        }


def test_foreign_directories_are_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "store.db").write_bytes(b"not a store" * 100)
    flags = [*write_world(tmp_path), "--data-dir", str(tmp_path / "data")]
    for command in (["load", *flags], ["rebuild", "--data-dir", str(tmp_path / "data")]):
        refused = feedcore(*command, check=False)
        assert refused.returncode == 1 and "error: " in refused.stderr
        assert "Traceback" not in refused.stderr
    assert (tmp_path / "data" / "store.db").read_bytes() == b"not a store" * 100
    absent = feedcore("rebuild", "--data-dir", str(tmp_path / "absent"), check=False)
    assert absent.returncode != 0 and not (tmp_path / "absent").exists()
