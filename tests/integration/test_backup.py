"""Backups: made under load, restored by command and by hand; pages are those of the moment."""

from __future__ import annotations

import copy
import shutil
import threading
import time
from pathlib import Path

import pytest

from feedcore_pb.collaborators.v1 import graph_pb2
from feedcore_pb.v1 import feed_pb2, publish_pb2
from tests.support.server import ServerProcess, feedcore

AUTHOR, READERS = 1, range(10, 16)
WITHIN_S = 60.0


def publish(server: ServerProcess) -> int:
    request = publish_pb2.PublishRequest(author_id=AUTHOR, body="x")
    return server.publish.Publish(request, timeout=20).content_id


def page(server: ServerProcess, reader: int) -> feed_pb2.GetFeedResponse:
    request = feed_pb2.GetFeedRequest(user_id=reader, page_size=100)
    return server.feed.GetFeed(request, timeout=20)


def shown(server: ServerProcess, reader: int) -> set[int]:
    found: set[int] = set()
    cursor = ""
    while True:
        request = feed_pb2.GetFeedRequest(user_id=reader, page_size=100, cursor=cursor)
        answer = server.feed.GetFeed(request, timeout=20)
        found.update(item.content_id for item in answer.items)
        cursor = answer.next_cursor
        if not cursor:
            return found


def until_stored(server: ServerProcess) -> None:
    """Until pages come from stored feeds again, whole."""
    deadline_s = time.monotonic() + WITHIN_S
    while any(page(server, reader).receipt.degraded for reader in READERS):
        assert time.monotonic() < deadline_s, "the feeds are not derived again"
        time.sleep(0.1)


class Backup:
    """Of a server under load: `file`, and what was acknowledged before and after it was begun."""

    def __init__(self, folder: Path) -> None:
        self.data, self.file = folder / "data", folder / "copy.db"
        acknowledged: list[int] = []
        done = threading.Event()
        with ServerProcess(self.data, workers=2) as server:
            for reader in READERS:
                request = graph_pb2.FollowRequest(follower_id=reader, followee_id=AUTHOR)
                server.graph.Follow(request)

            def post() -> None:
                while not done.is_set():
                    acknowledged.append(publish(server))

            posting = [threading.Thread(target=post) for _ in range(4)]
            for one in posting:
                one.start()
            while len(acknowledged) < 50:
                time.sleep(0.01)
            self.before = set(acknowledged)
            self.said = feedcore("backup", str(self.file), "--data-dir", str(self.data)).stdout
            time.sleep(0.5)
            done.set()
            for one in posting:
                one.join()
            self.all = set(acknowledged)

    def check(self, server: ServerProcess) -> None:
        """Everything that was acknowledged before it began, and nothing that never was."""
        for reader in READERS:
            found = shown(server, reader)
            assert self.before <= found <= self.all
        until_stored(server)
        for reader in READERS:
            assert self.before <= shown(server, reader) <= self.all
        new = publish(server)
        assert all(new in shown(server, reader) for reader in READERS)


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Backup:
    return Backup(tmp_path_factory.mktemp("backup"))


@pytest.fixture
def made(once: Backup, tmp_path: Path) -> Backup:
    """A copy of it that the test may spoil."""
    mine = copy.copy(once)
    mine.data, mine.file = tmp_path / "data", tmp_path / "copy.db"
    shutil.copytree(once.data, mine.data)
    shutil.copyfile(once.file, mine.file)
    return mine


def test_a_backup_under_load_is_restored_into_a_new_directory(made: Backup) -> None:
    assert "posts" in made.said and len(made.all) > len(made.before)
    again = feedcore("backup", str(made.file), "--data-dir", str(made.data), check=False)
    assert again.returncode != 0 and "there already" in again.stderr
    elsewhere = made.data.with_name("elsewhere")
    assert "restored: " in feedcore("restore", str(made.file), "--data-dir", str(elsewhere)).stdout
    with ServerProcess(elsewhere) as server:
        assert not page(server, READERS[0]).receipt.degraded
        made.check(server)


def test_a_restore_keeps_what_was_there_and_waits_for_no_server(made: Backup) -> None:
    with ServerProcess(made.data):
        refused = feedcore("restore", str(made.file), "--data-dir", str(made.data), check=False)
        assert refused.returncode != 0 and "in use" in refused.stderr
    said = feedcore("restore", str(made.file), "--data-dir", str(made.data)).stdout
    assert "replaced-1" in said and (made.data / "replaced-1" / "store.db").exists()
    with ServerProcess(made.data) as server:
        made.check(server)


def test_a_copy_put_back_by_hand_is_known_and_mended(made: Backup) -> None:
    for left in made.data.glob("store.db*"):
        left.unlink()
    shutil.copyfile(made.file, made.data / "store.db")
    with ServerProcess(made.data) as server:
        made.check(server)
        assert any("restored from a backup" in line for line in server.lines)


def test_a_copy_without_feeds_is_known_and_mended(made: Backup) -> None:
    shutil.rmtree(made.data)
    made.data.mkdir()
    shutil.copyfile(made.file, made.data / "store.db")
    with ServerProcess(made.data) as server:
        made.check(server)


def test_a_damaged_backup_is_refused_and_changes_nothing(made: Backup) -> None:
    content = bytearray(made.file.read_bytes())
    content[4096:] = b"\xa5" * (len(content) - 4096)
    made.file.write_bytes(content)
    before = (made.data / "store.db").read_bytes()
    refused = feedcore("restore", str(made.file), "--data-dir", str(made.data), check=False)
    assert refused.returncode != 0 and "corrupt" in refused.stderr
    assert (made.data / "store.db").read_bytes() == before
    assert not list(made.data.glob("replaced-*"))
