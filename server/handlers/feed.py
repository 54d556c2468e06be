"""feedcore.v1.FeedService."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from feedcore.clock import Clock
from feedcore.domain.receipt import Origin
from feedcore.errors import InvalidField
from feedcore.observe import metrics
from feedcore.ports import Interaction, InteractionKind, PreferenceKind
from feedcore.ports.events import EventSink
from feedcore.services.feed import FeedPage, FeedService
from feedcore.services.preferences import PreferenceService
from feedcore_pb.v1 import feed_pb2 as pb
from feedcore_server.context import CallContext
from feedcore_server.registry import Handlers

if TYPE_CHECKING:
    from feedcore.services.resident import ResidentFeed

INTERACTIONS = {
    pb.INTERACTION_KIND_LIKE: (InteractionKind.LIKE, True),
    pb.INTERACTION_KIND_UNLIKE: (InteractionKind.LIKE, False),
    pb.INTERACTION_KIND_COMMENT: (InteractionKind.COMMENT, True),
    pb.INTERACTION_KIND_SHARE: (InteractionKind.SHARE, True),
    pb.INTERACTION_KIND_CLICK: (InteractionKind.CLICK, True),
    pb.INTERACTION_KIND_HIDE: (InteractionKind.HIDE, True),
    pb.INTERACTION_KIND_UNHIDE: (InteractionKind.HIDE, False),
}
PREFERENCES = {
    pb.PREFERENCE_KIND_MUTE: (PreferenceKind.MUTE, True),
    pb.PREFERENCE_KIND_UNMUTE: (PreferenceKind.MUTE, False),
    pb.PREFERENCE_KIND_SNOOZE: (PreferenceKind.SNOOZE, True),
    pb.PREFERENCE_KIND_UNSNOOZE: (PreferenceKind.SNOOZE, False),
    pb.PREFERENCE_KIND_SEE_LESS: (PreferenceKind.SEE_LESS, True),
    pb.PREFERENCE_KIND_UNDO_SEE_LESS: (PreferenceKind.SEE_LESS, False),
}
_LISTED = {kind: number for number, (kind, on) in PREFERENCES.items() if on}


class FeedHandlers(Handlers):
    """See the service in its .proto file."""

    SERVICE = pb.DESCRIPTOR.services_by_name["FeedService"]

    def __init__(
        self,
        feed: FeedService,
        preferences: PreferenceService,
        resident: ResidentFeed | None,
        events: EventSink | None,
        clock: Clock,
    ) -> None:
        self._events = events
        self._clock = clock
        self._feed = feed if resident is None else resident
        self._resident = resident
        self._preferences = preferences
        self._pages: dict[str, Any] = {}
        self._timeline_hits = metrics.TIMELINE_READS.labels("hit")
        self._timeline_misses = metrics.TIMELINE_READS.labels("miss")

    def batched(self) -> dict[str, Any]:
        """Handlers of many calls at once, by method name: where a page costs a question to a
        server that all can share.
        """
        reads = self._resident.batched if self._resident is not None else None
        return {} if reads is None else {"GetFeed": reads.answer}

    async def get_feed(self, request: pb.GetFeedRequest, call: CallContext) -> bytes:
        """The page comes encoded from the service: no message object is built."""
        call.user_id = request.user_id
        page = await self._feed.get_feed(
            request.user_id, request.page_size, request.cursor, request.view, request.if_none_match
        )
        call.note(
            items=page.items,
            origin=page.origin,
            degraded=page.degraded,
            not_modified=page.not_modified,
            reply_bytes=len(page.body),
            cache_hits=page.timeline_hits,
            cache_misses=page.timeline_misses,
        )
        if page.degraded:
            metrics.FEED_DEGRADED.inc()
        if not page.compiled:
            self._count(page)
        # batched_reads reports compiled pages
        if self._events is not None and not (page.not_modified or page.compiled):
            self._events.page_served(
                request.user_id,
                page.shown,
                Origin[page.origin.upper()],
                page.ranking_version,
                bool(request.cursor),
                self._clock.now_ms(),
            )
        return page.body

    def _count(self, page: FeedPage) -> None:
        if page.origin not in self._pages:
            self._pages[page.origin] = metrics.FEED_PAGES.labels(page.origin)
        self._pages[page.origin].inc()
        metrics.FEED_ITEMS.inc(page.items)
        self._timeline_hits.inc(page.timeline_hits)
        self._timeline_misses.inc(page.timeline_misses)
        if page.not_modified:
            metrics.FEED_NOT_MODIFIED.inc()

    async def check_new(
        self, request: pb.CheckNewRequest, call: CallContext
    ) -> pb.CheckNewResponse | bytes:
        """How many items are newer than the caller's page."""
        call.user_id = request.user_id
        new = await self._feed.check_new(request.user_id, request.head)
        if isinstance(new, bytes):
            return new
        call.note(items=new.items)
        return pb.CheckNewResponse(
            count=new.items,
            capped=new.capped,
            newest_published_at_ms=new.newest_published_at_ms,
            newest_content_id=new.newest_content_id,
        )

    async def record_interaction(
        self, request: pb.RecordInteractionRequest, call: CallContext
    ) -> pb.RecordInteractionResponse:
        """Like, comment, share, click, hide, and undo."""
        call.user_id = request.user_id
        kind, on = _known("kind", request.kind, INTERACTIONS)
        changed = await self._preferences.record_interaction(
            request.user_id, request.content_id, kind, on, request.idempotency_key
        )
        call.note(kind=kind.name.lower(), on=on, changed=changed)
        if changed and self._events is not None:
            now_ms = self._clock.now_ms()
            self._events.interacted(
                Interaction(request.user_id, request.content_id, kind, on, now_ms)
            )
        return pb.RecordInteractionResponse(changed=changed)

    async def set_preference(
        self, request: pb.SetPreferenceRequest, call: CallContext
    ) -> pb.SetPreferenceResponse:
        """Mute, snooze, see less, and undo."""
        call.user_id = request.user_id
        kind, on = _known("kind", request.kind, PREFERENCES)
        if not on and request.until_ms:
            raise InvalidField(
                "until_ms", str(request.until_ms), "must be 0 unless the kind is SNOOZE"
            )
        changed = await self._preferences.set_preference(
            request.user_id, kind, on, request.target_user_id, request.until_ms
        )
        call.note(kind=kind.name.lower(), on=on, changed=changed)
        return pb.SetPreferenceResponse(changed=changed)

    async def get_preferences(
        self, request: pb.GetPreferencesRequest, call: CallContext
    ) -> pb.GetPreferencesResponse:
        """Everything the user has set."""
        call.user_id = request.user_id
        rows = await self._preferences.list_preferences(request.user_id)
        call.note(items=len(rows))
        reply = pb.GetPreferencesResponse()
        for row in rows:
            hidden = row.kind is PreferenceKind.HIDE
            reply.preferences.add(
                kind=pb.PREFERENCE_KIND_UNSPECIFIED if hidden else _LISTED[row.kind],
                target_user_id=0 if hidden else row.target_id,
                hidden_content_id=row.target_id if hidden else 0,
                until_ms=row.until_ms,
                set_at_ms=row.set_at_ms,
            )
        return reply


def _known(field: str, value: int, table: dict[Any, Any]) -> Any:
    if value not in table:
        allowed = ", ".join(str(number) for number in sorted(table))
        raise InvalidField(field, str(value), f"must be one of {allowed}")
    return table[value]
