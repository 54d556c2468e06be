"""The bare grpc.aio peer: replies of constant size from raw bytes, under uvloop, nothing of ours.

python -m benchmarks.transport.grpc_aio PORT
"""

from __future__ import annotations

import sys
from typing import Any

import grpc
import grpc.aio
import uvloop

from benchmarks.transport import matrix


class _Bench(grpc.GenericRpcHandler):
    """Every method of the benchmark, without serializers."""

    def __init__(self) -> None:
        self._by_path = {matrix.path(size): _handler(matrix.reply(size)) for size in matrix.SIZES}

    def service(self, handler_call_details: Any) -> Any:
        """grpc's hook."""
        return self._by_path.get(handler_call_details.method)


def _handler(reply: bytes) -> Any:
    async def answer(_request: bytes, _context: grpc.aio.ServicerContext) -> bytes:
        return reply

    return grpc.unary_unary_rpc_method_handler(answer)


async def serve(port: int) -> None:
    """Serves until it is ended."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_Bench(),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
