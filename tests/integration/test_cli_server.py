"""The command line against a real server: every command once, loading in all its ways, the demo
world.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import pty
import select
import signal
import sqlite3
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from feedcore_pb.v1 import admin_pb2, feed_pb2
from tests.support.certificates import Authority
from tests.support.server import FEEDCORE, ServerProcess, feedcore

DAY_MS = 86_400_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("cli") / "data") as running:
        yield running


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def items(server: ServerProcess, user: int) -> list[str]:
    page = server.feed.GetFeed(feed_pb2.GetFeedRequest(user_id=user, page_size=100))
    return sorted(item.content.body for item in page.items)


def test_follow_post_feed_and_explain(server: ServerProcess) -> None:
    to = ("--server", server.address)
    assert feedcore("ping", *to).stdout == f"{server.address} is serving\n"
    assert feedcore("follow", "1", "2", *to).stdout == "followed\n"
    assert feedcore("follow", "1", "2", *to).stdout == "was followed already\n"
    published = json.loads(feedcore("post", "2", "hello from the shell", "--json", *to).stdout)
    content_id = published["content_id"]
    assert "published" in feedcore("post", "2", "twice", "--idempotency-key", "k", *to).stdout
    feedcore("post", "2", "twice", "--idempotency-key", "k", *to)
    assert items(server, 1) == ["hello from the shell", "twice"]
    shown = feedcore("feed", "1", *to).stdout
    for word in ("hello from the shell", content_id, "end of the feed"):
        assert word in shown
    page = json.loads(feedcore("feed", "1", "--page-size", "1", "--json", *to).stdout)
    again = feedcore(
        "feed", "1", "--page-size", "1", "--json", "--cursor", page["next_cursor"], *to
    )
    seen = [page, json.loads(again.stdout)]
    assert len({one["items"][0]["content_id"] for one in seen}) == 2
    explained = json.loads(feedcore("admin", "explain", "1", content_id, "--json", *to).stdout)
    assert explained["in_feed"] is True
    assert "recency" in feedcore("admin", "explain", "1", content_id, *to).stdout
    assert feedcore("unfollow", "1", "2", *to).stdout == "unfollowed\n"
    assert feedcore("unfollow", "1", "2", *to).stdout == "was not followed\n"


def read_until(terminal: int, word: str) -> str:
    """What the terminal shows, up to `word`; at most 30 s."""
    shown = ""
    deadline = time.monotonic() + 30
    while word not in shown:
        ready, _, _ = select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, f"{word!r} is not in {shown!r}"
        shown += os.read(terminal, 65_536).decode(errors="replace")
    return shown


def press(terminal: int, key: bytes) -> None:
    """Types a key as soon as single keys are read: what is typed before that is discarded."""
    deadline = time.monotonic() + 30
    while termios.tcgetattr(terminal)[3] & termios.ICANON:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.write(terminal, key)


def test_space_shows_the_next_page_and_q_ends(server: ServerProcess) -> None:
    to = ("--server", server.address)
    feedcore("follow", "71", "72", *to)
    for text in ("first", "second", "third"):
        feedcore("post", "72", f"the {text} post", *to)
    ours, theirs = pty.openpty()
    command = [str(FEEDCORE), "feed", "71", "--page-size", "1", *to]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    try:
        assert "the third post" in read_until(ours, "space: next page")
        press(ours, b" ")
        assert "the second post" in read_until(ours, "space: next page")
        press(ours, b"q")
        assert process.wait(30) == 0
    finally:
        process.kill()
        os.close(ours)


def test_admin_commands(server: ServerProcess) -> None:
    to = ("--server", server.address)
    status = json.loads(feedcore("admin", "status", "--json", *to).stdout)
    assert status["version"] and status["components"]
    assert "component" in feedcore("admin", "status", *to).stdout
    changed = feedcore(
        "admin", "settings", "--push-threshold", "123", "--pause-rest-lane", "--json", *to
    )
    settings = json.loads(changed.stdout)
    assert settings["push_threshold"] == "123" and settings["rest_lane_paused"] is True
    assert "123" in feedcore("admin", "settings", "--resume-rest-lane", *to).stdout
    ranking = json.loads(
        feedcore("admin", "ranking", "--set", "half_life_hours=6", "--json", *to).stdout
    )
    assert ranking["parameters"]["half_life_hours"] == 6
    assert "half_life_hours" in feedcore("admin", "ranking", *to).stdout
    refused = feedcore("admin", "ranking", "--set", "half_life_hours=nan", *to, check=False)
    assert refused.returncode == 1 and "half_life_hours" in refused.stderr
    assert "no dead letters" in feedcore("admin", "dead-letters", *to).stdout
    assert "put back: 0" in feedcore("admin", "replay", "--all", *to).stdout
    assert "queued" in feedcore("admin", "rebuild-feed", "1", *to).stdout
    audit = feedcore("audit", "--sample", "50", *to)
    assert "0 missing, 0 duplicate, 0 unexpected" in audit.stdout


def test_an_experiment_goes_in_and_out_by_file(server: ServerProcess, tmp_path: Path) -> None:
    to = ("--server", server.address)
    config = json.loads(feedcore("admin", "ranking", "--json", *to).stdout)
    parameters = {**config["parameters"], "half_life_hours": 3}
    arms = [{"name": name, "weight": 1, "parameters": parameters} for name in ("a", "b")]
    file = tmp_path / "ranking.json"
    file.write_text(json.dumps({**config, "experiment": "fresher", "arms": arms}))
    assert "experiment fresher" in feedcore("admin", "ranking", "--file", str(file), *to).stdout
    file.write_text(json.dumps({**config, "experiment": "", "arms": []}))
    assert "fresher" not in feedcore("admin", "ranking", "--file", str(file), *to).stdout
    file.write_text("{")
    assert feedcore("admin", "ranking", "--file", str(file), *to, check=False).returncode == 2


def write_world(folder: Path, first_user: int) -> list[str]:
    """Files of a small world; the flags that load them."""
    follows, mutes = folder / "follows.tsv.gz", folder / "mutes.txt"
    posts, interactions = folder / "posts.csv", folder / "interactions.jsonl"
    a, b, c = first_user, first_user + 1, first_user + 2
    follows.write_bytes(gzip.compress(f"{a}\t{b}\n{a}\t{c}\n{a}\tnobody\n{b}\t{a}\n".encode()))
    mutes.write_text(f"{b} {c}\n")
    newest = 1_650_000_000_000
    posts.write_text(
        "post_key,author_id,created_at_ms,text,likes,comments\n"
        f"w{a}-1,{b},{newest - 8 * DAY_MS},too old,1,1\n"
        f"w{a}-2,{b},{newest - DAY_MS},of yesterday,5,1\n"
        f"w{a}-3,{c},{newest},newest,0,0\n"
        f"w{a}-4,0,{newest},nobody's,0,0\n"
    )
    rows = [
        {"user_id": a, "post_key": f"w{a}-2", "author_id": b, "kind": "like", "at_ms": newest},
        {"user_id": a, "post_key": "absent", "author_id": b, "kind": "like", "at_ms": newest},
    ]
    interactions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = [
        "--follows",
        follows,
        "--mutes",
        mutes,
        "--posts",
        posts,
        "--interactions",
        interactions,
    ]
    return [str(flag) for flag in (*flags, "--rebase-newest-to", "now")]


def test_load_reports_bad_lines_and_changes_nothing_the_second_time(
    server: ServerProcess, tmp_path: Path
) -> None:
    flags = [*write_world(tmp_path, 1_000), "--server", server.address]
    first = feedcore("load", *flags)
    assert items(server, 1_000) == ["newest", "of yesterday"]
    assert "follows: 4 rows: 3 loaded, 0 there already, 1 bad" in first.stdout
    assert "posts: 4 rows: 2 loaded, 0 there already, 1 older than retention, 1 bad" in first.stdout
    assert f"{tmp_path}/follows.tsv.gz:3: second id is 'nobody'" in first.stderr
    assert f"{tmp_path}/posts.csv:5: author_id is 0" in first.stderr
    assert f"{tmp_path}/interactions.jsonl:2: post_key" in first.stderr
    second = feedcore("load", *flags)
    assert "follows: 4 rows: 0 loaded, 3 there already, 1 bad" in second.stdout
    assert "posts: 4 rows: 0 loaded, 2 there already" in second.stdout
    assert items(server, 1_000) == ["newest", "of yesterday"]
    strict = feedcore("load", "--strict", *flags, check=False)
    assert strict.returncode == 1


def heed_interrupts() -> None:
    """Tests that were started in the background ignore Ctrl-C, and so does all they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


LOADED = "SELECT 1 FROM followers WHERE followee_id >= 10000 LIMIT 1"


def test_an_interrupted_load_is_continued(server: ServerProcess, tmp_path: Path) -> None:
    follows = tmp_path / "follows"
    count = 600_000  # some seconds: there is time to interrupt it
    follows.write_text("".join(f"{5_000 + n % 500} {10_000 + n // 500}\n" for n in range(count)))
    flags = ["load", "--server", server.address, "--follows", str(follows)]
    process = subprocess.Popen(
        [FEEDCORE, *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_interrupts,
    )
    deadline = time.monotonic() + 60
    # past the server, which has no time for this while it loads
    with contextlib.closing(sqlite3.connect(server.data_dir / "store.db")) as looking:
        while not looking.execute(LOADED).fetchone() and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, shown = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in shown
    before = follow_count(server)
    assert before < count, "the load had ended before it was interrupted"
    report = feedcore(*flags).stdout
    assert f"follows: {count:,} rows" in report and "bad" not in report
    assert follow_count(server) >= count


def follow_count(server: ServerProcess) -> int:
    return server.admin.GetStatus(admin_pb2.GetStatusRequest()).store["follows"]


def test_the_demo_world(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "data") as server:
        to = ("--server", server.address)
        note = tmp_path / "note"
        feedcore("demo", *to, "--note", str(note))
        assert not note.exists()
        status = server.admin.GetStatus(admin_pb2.GetStatusRequest())
        assert status.store["posts"] == 20_000
        assert not any(lane.jobs for lane in status.lanes)
        page = server.feed.GetFeed(feed_pb2.GetFeedRequest(user_id=42))
        assert len(page.items) == 20 and page.receipt.pull_sources_total >= 3
        assert "no demo world is loaded" in feedcore("demo", *to).stdout
        feedcore("demo", *to, "--again")
        status = server.admin.GetStatus(admin_pb2.GetStatusRequest())
        assert status.store["posts"] == 20_000
        assert "0 missing, 0 duplicate, 0 unexpected" in feedcore("audit", *to).stdout


def serve_flags(authority: Authority) -> list[str]:
    certificate, key = authority.issue("server")
    return ["--tls-certificate", str(certificate), "--tls-key", str(key)]


def test_calls_with_tls_and_on_a_unix_socket(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "socket"
    flags = [*serve_flags(authority), "--listen-unix", str(path)]
    with ServerProcess(tmp_path / "data", *flags) as server:
        to = ("--server", server.address)
        ca = ("--ca", str(authority.certificate))
        assert feedcore("ping", *to, *ca).stdout == f"{server.address} is serving\n"
        assert feedcore("follow", "1", "2", *to, *ca).stdout == "followed\n"
        follows = tmp_path / "follows"
        follows.write_text("3 4\n")
        loaded = feedcore("load", "--follows", str(follows), *to, *ca).stdout
        assert "1 rows: 1 loaded" in loaded
        plain = feedcore("ping", *to, check=False)
        assert plain.returncode == 1 and "no answer from the server" in plain.stderr

        over_unix = feedcore("ping", "--service", "liveness", "--server", f"unix:{path}")
        assert over_unix.stdout == f"unix:{path} is serving\n"
        monkeypatch.setenv("FEEDCORE_CA", str(authority.certificate))
        assert "was followed" in feedcore("follow", "1", "2", *to).stdout
        assert "was followed" in feedcore("follow", "3", "4", "--server", f"unix:{path}").stdout
        other = Authority(tmp_path / "other", "other")
        monkeypatch.setenv("FEEDCORE_CA", str(other.certificate))
        strange = feedcore("ping", *to, check=False)
        assert strange.returncode == 1 and "CERTIFICATE_VERIFY_FAILED" in strange.stderr


def test_calls_with_a_certificate_of_ones_own(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.issue("operator")
    flags = [*serve_flags(authority), "--tls-client-ca", str(authority.certificate)]
    with ServerProcess(tmp_path / "data", *flags) as server:
        to = ("--server", server.address, "--ca", str(authority.certificate))
        pair = ("--cert", str(certificate), "--key", str(key))
        assert feedcore("ping", *to, *pair).stdout == f"{server.address} is serving\n"
        assert feedcore("ping", *to, check=False).returncode == 1
