"""Contract of ports.EventSink: calls cost nothing and never fail; what is sent arrives whole and in
its user's order, and what is not sent is counted.
"""

from __future__ import annotations

import time
from typing import Protocol

from feedcore.domain.receipt import Origin
from feedcore.ports import EventSink, Interaction, InteractionKind
from feedcore_pb.collaborators.v1 import events_pb2
from feedcore_pb.v1 import feed_pb2, types_pb2

USER = 2**63 - 1
START_MS = 1_750_000_000_000
CALLS_S = 0.001  # a call, at most, on a busy machine


class EventEngine(Protocol):
    """A sink under test."""

    @property
    def sink(self) -> EventSink: ...

    @property
    def waiting_max(self) -> int:
        """Events for which the sink has room."""

    async def received(self) -> list[events_pb2.Event]:
        """Ends the sink, and reads what others get of what was sent, in their order for each user
        or post.
        """

    def sent(self) -> int:
        """Events that left, as the sink counts them."""

    def dropped(self) -> int:
        """Events that did not."""


class EventContract:
    """The fixture `events` has somebody who listens; `deaf` has nobody to send to."""

    async def test_events_of_all_kinds_arrive_whole(self, events: EventEngine) -> None:
        sink = events.sink
        sink.published(5, 9, 1, START_MS)
        sink.deleted(5, 9, START_MS + 1)
        sink.page_served(USER, [7, 6, 8], Origin.REBUILT, 3, True, START_MS + 2)
        for kind, on in ((InteractionKind.LIKE, True), (InteractionKind.LIKE, False)):
            sink.interacted(Interaction(USER, 6, kind, on, START_MS + 3))
        found = await events.received()
        assert (len(found), events.sent(), events.dropped()) == (5, 5, 0)
        assert len({event.event_id for event in found}) == 5
        at = {event.at_ms - START_MS: event for event in found}
        published, deleted, served = at[0].published, at[1].deleted, at[2].page_served
        assert (published.content_id, published.author_id) == (5, 9)
        assert published.visibility == types_pb2.VISIBILITY_FOLLOWERS
        assert (deleted.content_id, deleted.author_id) == (5, 9)
        assert (served.user_id, list(served.content_ids)) == (USER, [7, 6, 8])
        assert (served.origin, served.ranking_version) == (types_pb2.FEED_ORIGIN_REBUILT, 3)
        assert served.scrolled
        kinds = [event.interacted.kind for event in found if event.at_ms == START_MS + 3]
        assert kinds == [feed_pb2.INTERACTION_KIND_LIKE, feed_pb2.INTERACTION_KIND_UNLIKE]

    async def test_one_users_events_keep_their_order(self, events: EventEngine) -> None:
        users, each = 50, 60
        for number in range(each):
            for user_id in range(1, users + 1):
                events.sink.page_served(user_id, [1], Origin.STORED, 0, False, START_MS + number)
        found = await events.received()
        # a broker that is slow costs events, never their order
        assert len(found) == events.sent() == users * each - events.dropped() > 0
        order: dict[int, list[int]] = {}
        for event in found:
            order.setdefault(event.page_served.user_id, []).append(event.at_ms - START_MS)
        assert all(times == sorted(set(times)) for times in order.values())

    async def test_what_has_no_name_on_the_wire_is_no_event(self, events: EventEngine) -> None:
        unclick = Interaction(USER, 6, InteractionKind.CLICK, False, START_MS)
        events.sink.interacted(unclick)
        events.sink.interacted(unclick._replace(on=True))
        (only,) = await events.received()
        assert only.interacted.kind == feed_pb2.INTERACTION_KIND_CLICK
        assert (events.sent(), events.dropped()) == (1, 0)

    async def test_with_nobody_there_calls_go_on_and_events_are_counted(
        self, deaf: EventEngine
    ) -> None:
        calls = 2 * deaf.waiting_max
        started = time.perf_counter()
        for _ in range(calls):
            deaf.sink.deleted(1, 2, 3)
        assert time.perf_counter() - started < calls * CALLS_S
        assert await deaf.received() == []
        assert (deaf.sent(), deaf.dropped()) == (0, calls)
