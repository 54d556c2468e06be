"""Probes of collaborators: the cheapest call of each contract, at every endpoint.

Whatever a service says of the request is an answer; only no answer, and not knowing the method, are
failures. Not for whether answers are right.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import grpc
import grpc.aio
from google.protobuf.message import Message

from feedcore.adapters.collaborators.service import OPTIONS
from feedcore.adapters.common.probing import Probe
from feedcore.clock import Clock
from feedcore.ports.finding import Finding, State
from feedcore_pb.collaborators.v1 import (
    content_pb2,
    content_pb2_grpc,
    graph_pb2,
    graph_pb2_grpc,
    ranking_pb2,
    ranking_pb2_grpc,
)

ENGINE = "collaborators"
_ID = 1  # any: a service that does not know it says so
_NO_ANSWER = ("unavailable", "deadline_exceeded", "cancelled")
_WITHOUT = {
    "content": "pages come without the contents",
    "graph": "pages come from cached followees, or show what trends",
    "ranking": "pages are ranked by the built-in formula",
}


class _Call(NamedTuple):
    stub: Any
    method: str
    request: Message


_CALLS = {
    "content": _Call(
        content_pb2_grpc.ContentServiceStub,
        "BatchGetContents",
        content_pb2.BatchGetContentsRequest(content_ids=[_ID]),
    ),
    "graph": _Call(
        graph_pb2_grpc.GraphServiceStub,
        "GetFollowerCounts",
        graph_pb2.GetFollowerCountsRequest(user_ids=[_ID]),
    ),
    "ranking": _Call(
        ranking_pb2_grpc.RankingServiceStub,
        "Score",
        ranking_pb2.ScoreRequest(
            viewer_id=_ID, candidates=[ranking_pb2.Candidate(content_id=_ID, author_id=_ID)]
        ),
    ),
}


def probes(
    name: str, addresses: Sequence[str], deadline_ms: int, clock: Clock, timeout_s: float
) -> list[Probe]:
    """`deadline_ms`: what calls of servers get; slower than that is as good as away."""

    def endpoint(address: str) -> Probe:
        async def run() -> list[Finding]:
            return [await _ask(name, address, deadline_ms, clock, timeout_s)]

        mend = f"start it, or correct collaborators.{name}; until then {_WITHOUT[name]}"
        return Probe(ENGINE, f"{name} {address}", run, mend)

    return [endpoint(address) for address in addresses]


async def _ask(
    name: str, address: str, deadline_ms: int, clock: Clock, timeout_s: float
) -> Finding:
    stub, method, request = _CALLS[name]
    what, mend = f"{name} {address}", f"until it is mended {_WITHOUT[name]}"
    status = "ok"
    async with grpc.aio.insecure_channel(address, OPTIONS) as channel:
        begun_s = clock.monotonic()
        try:
            # ends a little before the probe's own bound, and says more
            await getattr(stub(channel), method)(request, timeout=timeout_s * 0.9)
        except grpc.aio.AioRpcError as error:
            status = error.code().name.lower()
            if status in _NO_ANSWER:
                detail = f"{status}: {error.details()}"
                start = f"start it, or correct collaborators.{name}; {mend}"
                return Finding(ENGINE, what, State.DOWN, detail, start)
        ms = (clock.monotonic() - begun_s) * 1e3
    if status == "unimplemented":
        detail = f"does not know {method}"
        return Finding(ENGINE, what, State.DOWN, detail, f"another service listens there; {mend}")
    if ms > deadline_ms:
        slow = f"slower than collaborators.deadline_ms ({deadline_ms} ms); {mend}"
        return Finding(ENGINE, what, State.WARN, f"{method}: {status}", slow, ms)
    return Finding(ENGINE, what, State.OK, f"{method}: {status}", "", ms)
