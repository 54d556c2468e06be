"""People: sessions that load, scroll, look for news, refresh, react, mute, publish and delete.

A session belongs to one user, and each of its requests is made from the answer before (cursor,
head, etag). Session n of a seed is the same in every run, given the same answers. Ten pages are
loaded to one post. Not for the rate of arrivals: the engine has it.
"""

from __future__ import annotations

import bisect
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Generator
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError

from feedcore.loading.demo_text import sentence
from feedcore_bench import methods
from feedcore_bench.checks import Checker, Page
from feedcore_bench.graph import zipf_weights
from feedcore_pb.v1 import feed_pb2, publish_pb2

PAGE_SIZE = 20
SCROLL_MAX = 10
# Pages scrolled after the first: each goes on with three in four; the mean is 2.7.
SCROLL_WEIGHTS = [0.75**pages for pages in range(SCROLL_MAX + 1)]
VIEWS, VIEW_WEIGHTS = (methods.FULL, methods.COMPACT, methods.IDS), (85, 10, 5)
REACT = 0.12  # of the pages: a reaction to one of its items
CHECK = 0.5  # of the sessions: is there anything new?
REFRESH = 0.35  # of the sessions: the first page again, with its etag
MUTE = 0.01  # of the sessions
MUTES_MAX = 5  # a user: feeds stay full
LOADS_PER_POST = 10
# Pages of a session: the first, the scroll, the refresh; and the reload after a mute or a delete.
PAGES_MEAN = (
    1
    + sum(n * weight for n, weight in enumerate(SCROLL_WEIGHTS)) / sum(SCROLL_WEIGHTS)
    + REFRESH
    + MUTE
)
DELETES = 0.1  # of the posts: taken back at once
POST = PAGES_MEAN / LOADS_PER_POST / (1 - DELETES / LOADS_PER_POST)
KINDS = (
    feed_pb2.INTERACTION_KIND_LIKE,
    feed_pb2.INTERACTION_KIND_CLICK,
    feed_pb2.INTERACTION_KIND_COMMENT,
    feed_pb2.INTERACTION_KIND_SHARE,
    feed_pb2.INTERACTION_KIND_HIDE,
)
KIND_WEIGHTS = (50, 35, 8, 5, 2)

HINT = "retry after"  # in the detail of a refusal that says when to come back

Call = tuple[int, bytes]


class Answer(NamedTuple):
    """What came back. `order`: the checker's when the request was sent; `sent_ns`: when that was
    due."""

    status: int
    body: bytes
    order: int
    sent_ns: int
    now_ns: int


Script = Generator[Call, Answer, None]


class Session:
    """One visit of one user."""

    def __init__(self, number: int, user: int, seed: int, checker: Checker) -> None:
        self.number = number
        self.user = user
        self.draw = random.Random(seed << 40 | number)
        self.checker = checker
        self.seen: set[int] = set()

    def script(self) -> Script:
        """The calls of the visit, each sent the answer of the one before."""
        draw = self.draw
        view = draw.choices(VIEWS, VIEW_WEIGHTS)[0]
        page = yield from self.load(view=view, first=True)
        first = page
        for _ in range(draw.choices(range(SCROLL_MAX + 1), SCROLL_WEIGHTS)[0]):
            if page is None:
                return
            if draw.random() < REACT and page.ids:
                yield from self._react(page)
            if not page.cursor:
                break
            page = yield from self.load(view=view, cursor=page.cursor)
        if first is None or page is None:
            return
        if draw.random() < CHECK:
            yield from self._check(first)
        if draw.random() < REFRESH:
            yield from self.load(view=view, first=True, if_none_match=first.etag)
        if draw.random() < MUTE and page.authors:
            yield from self._mute(draw.choice(page.authors))
        if draw.random() < POST:
            yield from self._post()

    def load(
        self, view: feed_pb2.View, cursor: str = "", first: bool = False, if_none_match: str = ""
    ) -> Generator[Call, Answer, Page | None]:
        """A page, judged. None if there was none."""
        call = (
            methods.GET_FEED,
            methods.get_feed(self.user, PAGE_SIZE, cursor, view, if_none_match),
        )
        answer = yield call
        if answer.status != methods.OK:
            return None
        if first:
            self.seen = set()
        return self.checker.page(
            answer.body,
            answer.order,
            self.user,
            self.number,
            call,
            size=PAGE_SIZE,
            view=view,
            seen=self.seen,
            if_none_match=if_none_match,
        )

    def _react(self, page: Page) -> Script:
        kind = self.draw.choices(KINDS, KIND_WEIGHTS)[0]
        item = self.draw.choice(page.ids)
        answer = yield methods.INTERACT, methods.interact(self.user, item, kind)
        if answer.status == methods.OK and kind == feed_pb2.INTERACTION_KIND_HIDE:
            self.checker.state(self.user).hidden[item] = self.checker.acknowledge()

    def _check(self, first: Page) -> Script:
        call = methods.CHECK_NEW, methods.check_new(self.user, first.head)
        answer = yield call
        if answer.status == methods.OK:
            self.checker.news(answer.body, answer.order, self.user, self.number, call)

    def _mute(self, author: int) -> Script:
        state = self.checker.state(self.user)
        if author == self.user or author in state.ever_muted or len(state.muted) >= MUTES_MAX:
            return
        state.ever_muted.add(author)
        kind = feed_pb2.PREFERENCE_KIND_MUTE
        answer = yield methods.PREFER, methods.prefer(self.user, author, kind)
        if answer.status == methods.OK:
            state.muted[author] = self.checker.acknowledge()
            yield from self.load(view=methods.FULL, first=True)

    def _post(self) -> Script:
        body = " ".join(sentence(self.draw) for _ in range(self.draw.randint(1, 3)))
        call = methods.PUBLISH, methods.publish(self.user, body)
        answer = yield call
        if answer.status != methods.OK:
            return
        content_id = published_id(answer.body)
        if not content_id:
            self._wrong("publish", "no content id", call, answer)
        elif self.draw.random() < DELETES:
            self.checker.deleting.add(content_id)
            answer = yield methods.DELETE, methods.delete(self.user, content_id)
            if answer.status == methods.OK:
                self.checker.deleted[content_id] = self.checker.acknowledge()
                yield from self.load(view=methods.FULL, first=True)

    def _wrong(self, what: str, detail: str, call: Call, answer: Answer) -> None:
        self.checker.add(what, detail, self.user, self.number, call, answer.body)


def published_id(body: bytes) -> int:
    """The content id of a PublishResponse; 0 if it cannot be read."""
    try:
        return publish_pb2.PublishResponse.FromString(body).content_id
    except DecodeError:
        return 0


class Crowd:
    """Sessions of users by their activity: `session(n)` is the n-th."""

    def __init__(self, activity: list[int], seed: int, checker: Checker) -> None:
        self._activity = activity
        self._weights = zipf_weights(len(activity))
        self._seed = seed
        self._checker = checker

    def user(self, number: int) -> int:
        """Whose session it is."""
        place = random.Random(self._seed << 41 | number).random() * self._weights[-1]
        return self._activity[bisect.bisect(self._weights, place)]

    def session(self, number: int) -> Script:
        """Its script, not begun."""
        return Session(number, self.user(number), self._seed, self._checker).script()


class _Run:
    """A script under way."""

    __slots__ = ("call", "due_ns", "number", "order", "script")

    def __init__(self, number: int, script: Script, call: Call) -> None:
        self.number = number
        self.script = script
        self.call = call
        self.order = 0
        self.due_ns = 0


class Scripted:
    """A workload of scripts, for the engine. At least `gap` sessions rest between two calls of one:
    its time to think. Scripts that `begin` was given go first, when they are due."""

    def __init__(
        self,
        session: Callable[[int], Script],
        checker: Checker,
        *,
        gap: int = 0,
        sessions_max: int = 0,
    ) -> None:
        self.checker = checker
        self.answered = 0
        self.urgent: list[_Run] = []
        self.calls: Counter[int] = Counter()
        self.statuses: Counter[int] = Counter()
        self.shed = 0  # refusals that say when to come back
        self._session = session
        self._gap = gap
        self._sessions_max = sessions_max
        self._resting: deque[_Run] = deque()
        self._number = 0
        self._pause_ms = 0

    @property
    def sessions(self) -> int:
        """Begun so far."""
        return self._number

    def begin(self, script: Script) -> None:
        """Runs a script before all others, call after call."""
        self.urgent.append(_Run(-1, script, next(script)))

    def pause(self, ms: int) -> None:
        """Called by a script that was begun: its next call is not due before `ms` have passed."""
        self._pause_ms = ms

    def _due(self) -> _Run | None:
        now_ns = time.monotonic_ns()
        for place, run in enumerate(self.urgent):
            if run.due_ns <= now_ns:
                return self.urgent.pop(place)
        return None

    def next(self) -> tuple[int, bytes, Any] | None:
        """The next request, for the engine."""
        run = self._due() if self.urgent else None
        if run is not None:
            pass
        elif len(self._resting) > self._gap:
            run = self._resting.popleft()
        elif not self._sessions_max or self._number < self._sessions_max:
            script = self._session(self._number)
            run = _Run(self._number, script, next(script))
            self._number += 1
        elif self._resting:
            run = self._resting.popleft()
        else:
            return None
        run.order = self.checker.order
        return run.call[0], run.call[1], run

    def done(
        self,
        run: _Run,
        method: int,
        status: int,
        body: bytes,
        latency_ns: int,
        now_ns: int,
        detail: str = "",
    ) -> None:
        """An answer, from the engine."""
        self.answered += 1
        self.calls[method] += 1
        if status:
            self._refused(run, status, detail)
        answer = Answer(status, body, run.order, now_ns - latency_ns, now_ns)
        try:
            run.call = run.script.send(answer)
        except StopIteration:
            return
        if run.number < 0:
            run.due_ns = now_ns + self._pause_ms * 1_000_000
            self._pause_ms = 0
            self.urgent.append(run)
        else:
            self._resting.append(run)

    def _refused(self, run: _Run, status: int, detail: str) -> None:
        self.statuses[status] += 1
        if status == methods.RESOURCE_EXHAUSTED and HINT in detail:
            self.shed += 1
            return
        if status == methods.NOT_FOUND and self.checker.may_be_gone(run.call):
            return
        self.checker.add("status", f"{status}: {detail}", 0, run.number, run.call, b"")
