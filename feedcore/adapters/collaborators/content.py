"""ContentSource over feedcore.collaborators.v1.ContentService.

Asks as an internal caller (viewer 0): who may see what is filtered here, from the entries. Raises
Unavailable or Overloaded when the service does not answer: the page then goes without contents.
"""

from __future__ import annotations

from collections.abc import Sequence

from feedcore.adapters.collaborators.service import Service
from feedcore.errors import BadAnswer
from feedcore.ports import Content
from feedcore_pb.collaborators.v1 import content_pb2 as pb

CONTENTS_BATCH_MAX = 500  # ids of one call, by the contract


class CollaboratorContentSource:
    """See `ports.content.ContentSource`."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def contents(self, content_ids: Sequence[int]) -> list[Content | None]:
        """One call for each 500 ids."""
        found: list[Content | None] = []
        for start in range(0, len(content_ids), CONTENTS_BATCH_MAX):
            found += await self._batch(list(content_ids[start : start + CONTENTS_BATCH_MAX]))
        return found

    async def _batch(self, content_ids: list[int]) -> list[Content | None]:
        def read(reply: pb.BatchGetContentsResponse) -> list[Content | None]:
            if [result.content_id for result in reply.results] != content_ids:
                raise BadAnswer(
                    f"{self._service.name}: {len(reply.results)} results; one for each of"
                    f" {len(content_ids)} ids, in their order"
                )
            return [_content(result) for result in reply.results]

        request = pb.BatchGetContentsRequest(content_ids=content_ids)
        return await self._service.ask("BatchGetContents", request, read)


def _content(result: pb.ContentResult) -> Content | None:
    if not result.found or not result.viewer_may_see:
        return None
    counts = result.counts
    return Content(result.content.SerializeToString(), counts.likes, counts.comments, counts.shares)
