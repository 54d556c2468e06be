"""feedcore.collaborators.v1.ContentService, as the embedded profile implements it."""

from __future__ import annotations

from feedcore.errors import InvalidField, NotFound, NotPermitted
from feedcore.services.admission import check_id
from feedcore.services.publish import PublishService
from feedcore_pb.collaborators.v1 import content_pb2 as pb
from feedcore_pb.v1 import types_pb2
from feedcore_server.context import CallContext
from feedcore_server.handlers.publish import counts
from feedcore_server.limits import CONTENTS_BATCH_MAX
from feedcore_server.registry import Handlers


class ContentHandlers(Handlers):
    """See the service in its .proto file."""

    SERVICE = pb.DESCRIPTOR.services_by_name["ContentService"]

    def __init__(self, publish: PublishService) -> None:
        self._publish = publish

    async def batch_get_contents(
        self, request: pb.BatchGetContentsRequest, call: CallContext
    ) -> pb.BatchGetContentsResponse:
        """Contents in the order asked for; what the viewer may not see comes without content."""
        call.user_id = request.viewer_id
        call.note(items=len(request.content_ids))
        if not 1 <= len(request.content_ids) <= CONTENTS_BATCH_MAX:
            raise InvalidField(
                "content_ids",
                f"{len(request.content_ids)} ids",
                f"must be 1 to {CONTENTS_BATCH_MAX}",
            )
        for content_id in request.content_ids:
            check_id("content_ids", content_id)
        return pb.BatchGetContentsResponse(
            results=[
                await self._result(content_id, request.viewer_id)
                for content_id in request.content_ids
            ]
        )

    async def _result(self, content_id: int, viewer_id: int) -> pb.ContentResult:
        try:
            item = await self._publish.get_post(content_id, viewer_id)
        except NotFound:
            return pb.ContentResult(content_id=content_id)
        except NotPermitted:
            return pb.ContentResult(content_id=content_id, found=True)
        return pb.ContentResult(
            content_id=content_id,
            found=True,
            viewer_may_see=True,
            content=types_pb2.Content.FromString(item.content),
            counts=counts(item),
            author_id=item.author_id,
        )
