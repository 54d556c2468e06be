"""Workloads of one kind of call: first pages of given users, and probes of new posts.

Invariant: every answer is judged; an answer that equals, byte for byte, one that was judged for the
same request with nothing acknowledged since, is right as well.
"""

from __future__ import annotations

import heapq
import random
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

from feedcore.loading.demo_text import sentence
from feedcore_bench import methods
from feedcore_bench.checks import Checker, scan
from feedcore_bench.people import HINT, Crowd, Script, Scripted, published_id
from feedcore_pb.v1 import feed_pb2

MS, NS = 1_000_000, 1_000_000_000
RETRY = re.compile(r"retry after (\d+) ms\]")
RUN_IS_OVER = "the run is over"  # how the engine tells of calls that had no answer at its end
PROBE_PAGE = 100  # items of the page a new post is looked for in
PROBE_POLL_MS = 5  # between two looks
PROBE_PAUSE_MS = 100  # between two posts of one prober
PROBE_WITHIN_MS = 60_000  # the validation bound: later is wrong


class FirstPages:
    """First pages of users in turn, 20 items in full view. Without end.

    `over_offered`: more is asked for than can be answered, so that calls may have no answer when
    the run ends.
    """

    def __init__(
        self,
        users: Sequence[int],
        checker: Checker,
        *,
        size: int = 20,
        view: feed_pb2.View = methods.FULL,
        must_have_items: bool = True,
        etag: str = "",
    ) -> None:
        self.answered = 0
        self.shed = 0
        self.over_offered = False
        self._users = list(users)
        self._requests = [
            methods.get_feed(user, size, view=view, if_none_match=etag) for user in users
        ]
        self._last: list[bytes] = [b""] * len(self._users)
        self._checker = checker
        self._size, self._view = size, view
        self._must = must_have_items
        self._at = 0

    @property
    def rounds(self) -> float:
        """How often every user was asked for."""
        return self.answered / len(self._users)

    def next(self) -> tuple[int, bytes, Any] | None:
        """For the engine."""
        at = self._at
        self._at = at + 1 if at + 1 < len(self._requests) else 0
        return methods.GET_FEED, self._requests[at], at

    def done(
        self,
        at: int,
        method: int,
        status: int,
        body: bytes,
        latency_ns: int,
        now_ns: int,
        detail: str = "",
    ) -> None:
        """For the engine."""
        self.answered += 1
        if status == 0:
            if body == self._last[at]:
                self._checker.checked += 1
                return
            self._judge(at, body)
        elif status == methods.RESOURCE_EXHAUSTED and HINT in detail:
            self.shed += 1
        elif not (self.over_offered and detail.startswith(RUN_IS_OVER)):
            call = method, self._requests[at]
            self._checker.add("status", f"{status}: {detail}", self._users[at], -1, call, b"")

    def _judge(self, at: int, body: bytes) -> None:
        checker = self._checker
        before = checker.failed()
        checker.page(
            body,
            checker.order,
            self._users[at],
            -1,
            (methods.GET_FEED, self._requests[at]),
            size=self._size,
            view=self._view,
            must_have_items=self._must,
        )
        if checker.failed() == before:
            self._last[at] = body


class Burst:
    """Users who all load their first page within a moment, and come back when they are told to.

    For a closed loop, which asks without pause: `next` gives what is due. `took_ms`: from when each
    user wanted the page until it was there, refusals and waiting included.
    """

    def __init__(
        self, users: Sequence[int], within_s: float, checker: Checker, shown: set[int]
    ) -> None:
        self.answered = 0
        self.shed = 0
        self.took_ms: list[float] = []
        self._users = users
        self._checker = checker
        self._shown = shown
        self._gap_ns = round(within_s * NS / len(users))
        self._wanted_ns: list[int] = []
        self._due: list[tuple[int, int]] = []  # heap: (when, place of the user)

    @property
    def over(self) -> bool:
        """Everybody has the page."""
        return len(self.took_ms) == len(self._users)

    def next(self) -> tuple[int, bytes, Any] | None:
        """For the engine."""
        now_ns = time.monotonic_ns()
        if not self._wanted_ns:
            self._wanted_ns = [now_ns + self._gap_ns * at for at in range(len(self._users))]
            self._due = [(when, at) for at, when in enumerate(self._wanted_ns)]
        if not self._due or self._due[0][0] > now_ns:
            return None
        _, at = heapq.heappop(self._due)
        return methods.GET_FEED, methods.get_feed(self._users[at], 20), at

    def done(
        self,
        at: int,
        method: int,
        status: int,
        body: bytes,
        latency_ns: int,
        now_ns: int,
        detail: str = "",
    ) -> None:
        """For the engine."""
        self.answered += 1
        call = method, methods.get_feed(self._users[at], 20)
        if status == 0:
            self.took_ms.append((now_ns - self._wanted_ns[at]) / MS)
            page = self._checker.page(
                body, self._checker.order, self._users[at], -1, call, must_have_items=True
            )
            self._shown.update(page.ids if page is not None else ())
        elif status == methods.RESOURCE_EXHAUSTED and (hint := RETRY.search(detail)):
            self.shed += 1
            heapq.heappush(self._due, (now_ns + int(hint[1]) * MS, at))
        elif detail.startswith(RUN_IS_OVER):
            heapq.heappush(self._due, (now_ns, at))
        else:
            self._checker.add("status", f"{status}: {detail}", self._users[at], -1, call, b"")


class Prober:
    """Publishes as an author and looks until a follower's page has the post, again and again.
    `took_ms`: from the moment Publish was due until the page that has it was answered."""

    def __init__(
        self, authors: Sequence[tuple[int, int, list[int]]], checker: Checker, seed: int
    ) -> None:
        self.took_ms: list[float] = []
        self.late = 0
        self._authors = authors
        self._checker = checker
        self._draw = random.Random(f"{seed} probes")

    def script(self, pause: Callable[[int], None]) -> Script:
        """Without end; `pause(ms)` holds the next call of this script back."""
        while True:
            author, _, followers = self._draw.choice(self._authors)
            follower = self._draw.choice(followers)
            call = methods.PUBLISH, methods.publish(author, sentence(self._draw))
            answer = yield call
            content_id = published_id(answer.body) if answer.status == methods.OK else 0
            if not content_id:
                if answer.status == methods.OK:
                    self._checker.add("publish", "no content id", author, -1, call, answer.body)
                pause(PROBE_PAUSE_MS)
                continue
            began_ns = answer.sent_ns
            look = (
                methods.GET_FEED,
                methods.get_feed(follower, PROBE_PAGE, view=methods.IDS),
            )
            while True:
                answer = yield look
                if answer.status == methods.OK and content_id in scan(answer.body).ids:
                    self.took_ms.append((answer.now_ns - began_ns) / MS)
                    break
                if answer.now_ns - began_ns > PROBE_WITHIN_MS * MS:
                    self.late += 1
                    detail = f"{content_id} of {author} is not in the page of {follower}"
                    self._checker.add("not visible", detail, follower, -1, look, answer.body)
                    break
                pause(PROBE_POLL_MS)
            pause(PROBE_PAUSE_MS)


class People(Scripted):
    """The crowd as a workload, with probers beside it if there are any."""

    def __init__(
        self,
        crowd: Crowd,
        checker: Checker,
        *,
        gap: int,
        probers: int = 0,
        prober: Prober | None = None,
    ) -> None:
        super().__init__(crowd.session, checker, gap=gap)
        for _ in range(probers if prober is not None else 0):
            assert prober is not None
            self.begin(prober.script(self.pause))
