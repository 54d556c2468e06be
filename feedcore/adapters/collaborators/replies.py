"""Replies of collaborators: counted before they are parsed, as requests to us are.

A reply of 32 MB may be 500 contents, or 16 million empty entries that would hold the loop for
seconds. How many entries the contract allows is bounded here; strings only by the whole reply,
since they cost their bytes, and a text that is too long is one item's fault, not the batch's. A
reply beyond its bounds is a BadAnswer. Not for what a reply means: the clients check that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from feedcore import native
from feedcore.codecs.bounds import Bound, Policy
from feedcore.errors import BadAnswer
from feedcore.limits import LIST_PAGE_MAX, LOAD_BATCH_MAX, MEDIA_REFS_MAX, WINDOW_ENTRIES

REPLY_BYTES_MAX = 32 * 1024 * 1024  # 500 contents of the largest kind are 30 MB
MEDIA_ROOM = 10  # times what a post of ours has: another team's rules for posts may be wider

_TEXT = Bound(size=REPLY_BYTES_MAX)
_V1 = "feedcore.collaborators.v1"
FIELDS: dict[str, Bound] = {
    f"{_V1}.BatchGetContentsResponse.results": Bound(entries=LOAD_BATCH_MAX),
    "feedcore.v1.Content.body": _TEXT,
    "feedcore.v1.Content.media": Bound(entries=MEDIA_REFS_MAX * MEDIA_ROOM),
    "feedcore.v1.MediaRef.uri": _TEXT,
    "feedcore.v1.MediaRef.mime_type": _TEXT,
    f"{_V1}.ListFollowersResponse.user_ids": Bound(entries=LIST_PAGE_MAX),
    f"{_V1}.ListFollowersResponse.next_page_token": _TEXT,
    f"{_V1}.ListFolloweesResponse.user_ids": Bound(entries=LIST_PAGE_MAX),
    f"{_V1}.ListFolloweesResponse.next_page_token": _TEXT,
    f"{_V1}.GetFollowerCountsResponse.counts": Bound(entries=LIST_PAGE_MAX),
    f"{_V1}.ScoreResponse.scores": Bound(entries=WINDOW_ENTRIES),
    f"{_V1}.ScoreResponse.model": _TEXT,
}
REPLIES = Policy(FIELDS, REPLY_BYTES_MAX, REPLY_BYTES_MAX, what="reply")


class RawReplies:
    """A channel for generated stubs whose replies come as bytes; `parsers` has, by the method's
    name, what makes messages of them.
    """

    def __init__(self, channel: Any, service: str) -> None:
        self._channel = channel
        self._service = service
        self.parsers: dict[str, Callable[[bytes], Message]] = {}

    def unary_unary(
        self, path: str, request_serializer: Any, response_deserializer: Any, **options: Any
    ) -> Any:
        """The stub's hook."""
        found = descriptor_pool.Default().FindMethodByName(path[1:].replace("/", "."))
        reply_class = GetMessageClass(found.output_type)
        self.parsers[found.name] = _parser(self._service, reply_class)
        return self._channel.unary_unary(path, request_serializer=request_serializer, **options)


def _parser(service: str, reply_class: type[Message]) -> Callable[[bytes], Message]:
    plan = REPLIES.plan(cast(Descriptor, reply_class.DESCRIPTOR))  # one of its two classes
    check = native.WireBounds(plan.nodes, plan.fields_max).check

    def parse(raw: bytes) -> Message:
        found = check(raw)
        if found is not None:
            raise BadAnswer(f"{service}: refused: {plan.error(found, len(raw))}")
        try:
            return reply_class.FromString(raw)
        except DecodeError as error:
            raise BadAnswer(f"{service}: refused: {plan.malformed(len(raw))}") from error

    return parse
