"""Where batches go: a running server (Import call), or a store opened in this process.

Both give one receipt a batch, in order. Not for retrying: a load that broke off is simply started
again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Iterator

import grpc.aio
from google.protobuf.message import Message

from feedcore.loading.batches import Batch
from feedcore.services.importing import ImportOutcome, Refusal
from feedcore_pb.v1 import admin_pb2, admin_pb2_grpc

# keeps server and reader busy at once; 20,000 rows are what a load holds in memory
BATCHES_UNDER_WAY = 4
MESSAGES: dict[str, type[Message]] = {
    "follows": admin_pb2.ImportFollow,
    "mutes": admin_pb2.ImportMute,
    "posts": admin_pb2.ImportPost,
    "interactions": admin_pb2.ImportInteraction,
}


class ServerSink:
    """Streams batches to AdminService.Import."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._admin = admin_pb2_grpc.AdminServiceStub(channel)

    async def stream(self, batches: Iterator[Batch]) -> AsyncIterator[tuple[Batch, ImportOutcome]]:
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
    ) -> tuple[Batch, ImportOutcome]:
        answer = await call.read()
        if not isinstance(answer, admin_pb2.ImportReceipt):
            # The status of a stream that ended early is where its error is.
            code, details = await call.code(), await call.details()
            raise ConnectionError(f"the server ended the import: {code.name}: {details}")
        batch = under_way.popleft()
        if answer.batch_id != batch.batch_id:
            raise ConnectionError(f"receipt for batch {answer.batch_id}, expected {batch.batch_id}")
        refused = [Refusal(item.list, item.index, item.reason) for item in answer.refused]
        return batch, ImportOutcome(answer.applied, answer.unchanged, refused)


def encode_batch(batch: Batch) -> admin_pb2.ImportBatch:
    """The wire form of a batch. The columns of a row are the fields of its message, in order."""
    made = admin_pb2.ImportBatch(batch_id=batch.batch_id)
    for name, message in MESSAGES.items():
        fields = [field.name for field in message.DESCRIPTOR.fields]
        rows = [message(**dict(zip(fields, row, strict=True))) for row in getattr(batch, name)]
        getattr(made, name).extend(rows)
    return made
