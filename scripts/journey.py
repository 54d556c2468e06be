"""How many files and Python frames one call passes in a worker: how far a reader has to walk.

Used from a checkout's root, with its own interpreter; another checkout can be given as --root.

    .venv/bin/python scripts/journey.py embedded
    .venv/bin/python scripts/journey.py embedded --without-extensions
    .venv/bin/python scripts/journey.py cluster --config cluster.toml     (whose tables are there)

A real server is started; its worker counts, between two signals, each call of a Python function of
the project, in every thread. Each journey is made several times, each time by a user whose feed no
cache has, and the median is printed: what runs behind the calls meanwhile is in few of them. A file
counts if at least half of the calls pass it.

Not for speed (`make bench`), and not for compiled code, which has no frames.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import grpc

ROUNDS = 9
SETTLE_S = 0.03  # for a signal to be handled, and for what a call leaves behind
READY = re.compile(r"feedcore ready on (?!unix:)(\S+)")

# Installed in every process of the server as sitecustomize.
COUNTER = """
import json, os, signal, sys, threading

ROOT, OUT = os.environ["JOURNEY_ROOT"], os.environ["JOURNEY_OUT"]
seen, on = {}, [False]

def count(frame, event, argument):
    if event == "call" and on[0]:
        name = frame.f_code.co_filename
        seen[name] = seen.get(name, 0) + 1

def begin(*_):
    seen.clear()
    on[0] = True

def end(*_):
    on[0] = False
    parts = (ROOT + "feedcore/", ROOT + "server/")
    ours = {name[len(ROOT):]: n for name, n in seen.copy().items() if name.startswith(parts)}
    part = os.path.join(OUT, str(os.getpid()))
    with open(part + ".part", "w") as file:
        json.dump(ours, file)
    os.replace(part + ".part", part)

if "feedcore" in " ".join(sys.orig_argv) or "spawn" in " ".join(sys.orig_argv):
    signal.signal(signal.SIGUSR1, begin)
    signal.signal(signal.SIGUSR2, end)
    threading.setprofile(count)
    sys.setprofile(count)
"""


class Journey(NamedTuple):
    """One call: how many files of the project it passes, and how many frames."""

    name: str
    files: list[str]
    frames: int


class Server:
    """`feedcore serve` with one worker whose frames can be counted."""

    def __init__(self, root: Path, folder: Path, flags: list[str], *, extensions: bool) -> None:
        self.out = folder / "out"
        self.out.mkdir()
        (folder / "sitecustomize.py").write_text(COUNTER)
        env = {
            **os.environ,
            "PYTHONPATH": str(folder),
            "JOURNEY_ROOT": f"{root}/",
            "JOURNEY_OUT": str(self.out),
        }
        if not extensions:
            env["FEEDCORE_NO_EXTENSIONS"] = "1"
        command = [str(root / ".venv/bin/feedcore"), "serve", "--listen", "127.0.0.1:0"]
        self.process = subprocess.Popen(
            [*command, "--workers", "1", *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=env,
        )
        assert self.process.stdout is not None
        lines = []
        for line in self.process.stdout:
            lines.append(line)
            if found := READY.search(line):
                break
        else:
            raise RuntimeError("the server did not get ready:\n" + "".join(lines))
        self.channel = grpc.insecure_channel(found[1])
        self.children = self._children()

    def _children(self) -> list[int]:
        listed = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in listed.split()]

    def measure(self, call: Callable[[], object]) -> dict[str, int]:
        """Frames by file, of the process that served the call."""
        for old in self.out.iterdir():
            old.unlink()
        for pid in self.children:
            os.kill(pid, signal.SIGUSR1)
        time.sleep(SETTLE_S)
        call()
        for pid in self.children:
            os.kill(pid, signal.SIGUSR2)
        counts = []
        for _ in range(100):
            counts = [json.loads(path.read_text()) for path in self.out.glob("*[0-9]")]
            if len(counts) == len(self.children):
                break
            time.sleep(SETTLE_S)
        return max(counts, key=_in_server, default={})

    def close(self) -> None:
        """Ends the server."""
        self.channel.close()
        self.process.terminate()
        self.process.wait(30)


def _in_server(found: dict[str, int]) -> int:
    return sum(count for path, count in found.items() if path.startswith("server/transports/"))


def journey(name: str, server: Server, call: Callable[[int], object]) -> Journey:
    """The median of several calls, and the files that at least half of them pass."""
    found = [server.measure(partial(call, number)) for number in range(ROUNDS)]
    passed = Counter(path for one in found for path in one)
    files = sorted(path for path, times in passed.items() if 2 * times > ROUNDS)
    return Journey(name, files, int(statistics.median(sum(one.values()) for one in found)))


def journeys(server: Server, first: int) -> list[Journey]:
    """GetFeed by users whose feeds no cache has, and Publish. `first`: a user id of this run."""
    from feedcore_pb.collaborators.v1 import graph_pb2, graph_pb2_grpc
    from feedcore_pb.v1 import feed_pb2, feed_pb2_grpc, publish_pb2, publish_pb2_grpc

    feed = feed_pb2_grpc.FeedServiceStub(server.channel)
    publish = publish_pb2_grpc.PublishServiceStub(server.channel)
    graph = graph_pb2_grpc.GraphServiceStub(server.channel)
    author = first + 1_000

    def post(number: int) -> object:
        return publish.Publish(
            publish_pb2.PublishRequest(
                author_id=author, body=f"post {number}", idempotency_key=f"k{number}"
            )
        )

    def get_feed(number: int) -> object:
        page = feed.GetFeed(feed_pb2.GetFeedRequest(user_id=first + number, page_size=20))
        assert len(page.items) == 3, page
        return page

    for number in range(ROUNDS):
        graph.Follow(graph_pb2.FollowRequest(follower_id=first + number, followee_id=author))
    for number in range(3):
        post(100 + number)
    time.sleep(3)  # fan-out and what follows a start
    pages = journey("GetFeed, cold", server, get_feed)
    return [pages, journey("Publish", server, post)]


def main() -> None:
    """Prints one line a journey, with --files also the files."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("profile", choices=["embedded", "cluster"])
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parent.parent)
    parser.add_argument("--config", help="of a cluster whose tables are there")
    parser.add_argument("--without-extensions", action="store_true")
    parser.add_argument("--files", action="store_true", help="list them")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        flags = ["--data-dir", str(folder / "data")]
        if asked.config:
            flags += ["--config", asked.config]
        server = Server(
            asked.root.resolve(), folder, flags, extensions=not asked.without_extensions
        )
        try:
            for one in journeys(server, int(time.time() * 1_000) % (1 << 40)):
                print(f"{asked.profile} {one.name}: {len(one.files)} files, {one.frames} frames")
                if asked.files:
                    print(*(f"    {path}" for path in one.files), sep="\n")
        finally:
            server.close()


if __name__ == "__main__":
    main()
