"""Where batches go: a running server (Import call), or a store opened in this process.

Both give one receipt a batch, in order. Not for retrying: a load that broke off is simply started
again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Iterator

import grpc.aio

from feedcore.loading.batches import Batch, Receipt, Refusal
from feedcore_pb.v1 import admin_pb2, admin_pb2_grpc

BATCHES_UNDER_WAY = (
    4  # keeps server and reader busy at once; 20,000 rows are what a load holds in memory
)


class ServerSink:
    """Streams batches to AdminService.Import."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._admin = admin_pb2_grpc.AdminServiceStub(channel)

    async def stream(self, batches: Iterator[Batch]) -> AsyncIterator[tuple[Batch, Receipt]]:
        """Raises grpc.aio.AioRpcError where the server ends the call."""
        call = self._admin.Import()
        under_way: deque[Batch] = deque()
        try:
            for batch in batches:
                await call.write(encode_batch(batch))
                under_way.append(batch)
                if len(under_way) >= BATCHES_UNDER_WAY:
                    yield await self._receipt(call, under_way)
            await call.done_writing()
            while under_way:
                yield await self._receipt(call, under_way)
        finally:
            call.cancel()

    async def _receipt(
        self,
        call: grpc.aio.StreamStreamCall[admin_pb2.ImportBatch, admin_pb2.ImportReceipt],
        under_way: deque[Batch],
    ) -> tuple[Batch, Receipt]:
        answer = await call.read()
        if not isinstance(answer, admin_pb2.ImportReceipt):
            # The status of a stream that ended early is where its error is.
            code, details = await call.code(), await call.details()
            raise ConnectionError(f"the server ended the import: {code.name}: {details}")
        batch = under_way.popleft()
        if answer.batch_id != batch.batch_id:
            raise ConnectionError(f"receipt for batch {answer.batch_id}, expected {batch.batch_id}")
        refused = [Refusal(item.list, item.index, item.reason) for item in answer.refused]
        return batch, Receipt(answer.applied, answer.unchanged, refused)


def encode_batch(batch: Batch) -> admin_pb2.ImportBatch:
    """The wire form of a batch."""
    return admin_pb2.ImportBatch(
        batch_id=batch.batch_id,
        follows=[
            admin_pb2.ImportFollow(follower_id=edge.source_id, followee_id=edge.target_id)
            for edge in batch.follows
        ],
        mutes=[
            admin_pb2.ImportMute(user_id=edge.source_id, target_user_id=edge.target_id)
            for edge in batch.mutes
        ],
        posts=[
            admin_pb2.ImportPost(
                post_key=row.post_key,
                author_id=row.author_id,
                published_at_ms=row.at_ms,
                body=row.body,
                likes=row.likes,
                comments=row.comments,
                shares=row.shares,
            )
            for row in batch.posts
        ],
        interactions=[
            admin_pb2.ImportInteraction(
                user_id=row.user_id,
                post_key=row.post_key,
                author_id=row.author_id,
                content_id=row.content_id,
                kind=row.kind,
                at_ms=row.at_ms,
            )
            for row in batch.interactions
        ],
    )
