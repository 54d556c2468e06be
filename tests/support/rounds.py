"""Rounds of read-your-writes: one write to one process, then a load of the feed from all at once.

Rounds of many users run concurrently, so that commits, caches and their invalidation meet in
every order. The sets of a user say what every page must and must not show once a write is
acknowledged. Not for throughput: each call waits for its answer.
"""

from __future__ import annotations

import select
import socket
from array import array
from collections.abc import Iterator

from feedcore_bench._native.h2call import Template
from feedcore_bench._native.h2client import Client
from feedcore_bench._native.pagescan import scan_page
from feedcore_pb.collaborators.v1 import graph_pb2
from feedcore_pb.v1 import feed_pb2, publish_pb2
from tests.support.server import ServerProcess

AUTHOR, NEIGHBOUR = 10_000, 20_000  # of a user: + the user's number
QUIET_S = 30.0  # without an answer for so long the server hangs
FEED, PREFERENCE, INTERACTION, PUBLISH, DELETE, FOLLOW, UNFOLLOW = range(7)
PATHS = (
    "/feedcore.v1.FeedService/GetFeed",
    "/feedcore.v1.FeedService/SetPreference",
    "/feedcore.v1.FeedService/RecordInteraction",
    "/feedcore.v1.PublishService/Publish",
    "/feedcore.v1.PublishService/Delete",
    "/feedcore.collaborators.v1.GraphService/Follow",
    "/feedcore.collaborators.v1.GraphService/Unfollow",
)
STEPS, PUBLISHED = 8, 4  # writes of a user before they begin again; which of them is the post
READ = "read"


class Link:
    """One connection: to one worker, since the supervisor hands new ones to who has fewest."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.client = Client([Template(path, address) for path in PATHS])
        while not self.client.room():  # until the server has said how many calls it takes
            self.flush()
            assert self.client.receive(self.socket.recv(1 << 16)) == []

    def flush(self) -> None:
        while (data := self.client.pull()) is not None:
            self.socket.sendall(data)


class User:
    """One user's rounds: each write, and what all pages must and must not show after it."""

    def __init__(self, number: int, post: int) -> None:
        self.number = number
        self.author = AUTHOR + number
        self.post = post
        self.own = 0
        self.waiting = 0
        self.rounds = 0
        self.steps = self._steps()
        self.must: set[int] = set()
        self.must_not: set[int] = set()

    def _steps(self) -> Iterator[tuple[int, bytes]]:
        """(method, request); the sets say what holds once it is acknowledged."""
        while True:
            for kind in (feed_pb2.PREFERENCE_KIND_MUTE, feed_pb2.PREFERENCE_KIND_UNMUTE):
                muted = kind == feed_pb2.PREFERENCE_KIND_MUTE
                self._expect(self.post, shown=not muted)
                asked = feed_pb2.SetPreferenceRequest(
                    user_id=self.number, kind=kind, target_user_id=self.author
                )
                yield PREFERENCE, asked.SerializeToString()
            for kind in (feed_pb2.INTERACTION_KIND_HIDE, feed_pb2.INTERACTION_KIND_UNHIDE):
                self._expect(self.post, shown=kind == feed_pb2.INTERACTION_KIND_UNHIDE)
                asked = feed_pb2.RecordInteractionRequest(
                    user_id=self.number, content_id=self.post, kind=kind
                )
                yield INTERACTION, asked.SerializeToString()
            posted = publish_pb2.PublishRequest(author_id=self.number, body="mine")
            yield PUBLISH, posted.SerializeToString()
            self._expect(self.own, shown=False)
            gone = publish_pb2.DeleteRequest(author_id=self.number, content_id=self.own)
            yield DELETE, gone.SerializeToString()
            for method, request in (
                (UNFOLLOW, graph_pb2.UnfollowRequest),
                (FOLLOW, graph_pb2.FollowRequest),
            ):
                self._expect(self.post, shown=method == FOLLOW)
                asked = request(follower_id=self.number, followee_id=self.author)
                yield method, asked.SerializeToString()

    def _expect(self, post: int, *, shown: bool) -> None:
        (self.must if shown else self.must_not).add(post)
        (self.must_not if shown else self.must).discard(post)

    def acknowledged(self, body: bytes) -> None:
        """A publish names its post."""
        if self.rounds % STEPS == PUBLISHED:
            self.own = publish_pb2.PublishResponse.FromString(body).content_id
            self._expect(self.own, shown=True)

    def check(self, body: bytes, writer: int, reader: int) -> None:
        shown = set(array("Q", scan_page(body)[0]))
        told = f"user {self.number}, round {self.rounds}, written to {writer}, read from {reader}"
        assert self.must <= shown, f"{told}: {self.must - shown} is missing"
        assert not self.must_not & shown, f"{told}: {self.must_not & shown} is shown"


def make_users(server: ServerProcess, count: int) -> list[User]:
    """Each follows an author and a neighbour, both of whom have published."""
    made = []
    for number in range(1, count + 1):
        posts = []
        for author in (AUTHOR + number, NEIGHBOUR + number):
            server.graph.Follow(graph_pb2.FollowRequest(follower_id=number, followee_id=author))
            posted = publish_pb2.PublishRequest(author_id=author, body="hello")
            posts.append(server.publish.Publish(posted).content_id)
        made.append(User(number, posts[0]))
    return made


def run(links: list[Link], everybody: list[User], rounds: int) -> int:
    """The rounds; how many reads were checked."""
    ready = select.poll()
    for link in links:
        ready.register(link.socket, select.POLLIN)
    by_fd = {link.socket.fileno(): place for place, link in enumerate(links)}
    begun = done = checked = 0

    def write(user: User) -> None:
        nonlocal begun
        begun += 1
        method, request = next(user.steps)
        writer = (user.number + user.rounds) % len(links)
        links[writer].client.submit(method, request, (user, writer))

    for user in everybody:
        write(user)
    while done < rounds:
        for link in links:
            link.flush()
        found = ready.poll(QUIET_S * 1_000)
        assert found, f"no answer for {QUIET_S} s after {done} rounds"
        for fd, _ in found:
            place = by_fd[fd]
            for tag, status, body, _, detail in links[place].client.receive(
                links[place].socket.recv(1 << 18)
            ):
                assert status == 0, (tag, status, detail)
                user, writer = tag[0], tag[1]
                if tag[-1] is not READ:
                    user.acknowledged(body)
                    user.waiting = len(links)
                    asked = feed_pb2.GetFeedRequest(user_id=user.number).SerializeToString()
                    for link in links:
                        link.client.submit(FEED, asked, (user, writer, READ))
                    continue
                user.check(body, writer, place)
                checked += 1
                user.waiting -= 1
                if not user.waiting:
                    user.rounds += 1
                    done += 1
                    if begun < rounds:
                        write(user)
    return checked
