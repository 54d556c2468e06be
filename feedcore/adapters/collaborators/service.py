"""One collaborator: its endpoints' channels, and the stack that every call to it goes through.

Invariants: a call asks one endpoint at a time, in turn, and leaves out those whose breaker is open;
what a reply's reader refuses is a failure of the endpoint that gave it; a cancelled call is
cancelled on the wire. Made and closed in the loop that calls it. Not for what a call means:
`content`, `graph` and `ranking` know their contracts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from feedcore.adapters.collaborators.replies import REPLY_BYTES_MAX, RawReplies
from feedcore.adapters.collaborators.statuses import error_of
from feedcore.observe import metrics
from feedcore.resilience import deadline
from feedcore.resilience.breaker import Breaker, BreakerState
from feedcore.resilience.budget import RetryBudget
from feedcore.resilience.bulkhead import Bulkhead
from feedcore.resilience.stack import DEADLINE_S, Endpoint, Stack

R = TypeVar("R")

# grpc's own pause is 1 s at first and minutes later: a restarted endpoint is to be found by the
# breaker's probe, the first of which comes after one second
RECONNECT_FIRST_MS = 100
RECONNECT_MOST_MS = 1_000
KEEPALIVE_TIME_MS = 20_000  # a peer that vanished without a word is noticed between calls, too
KEEPALIVE_TIMEOUT_MS = 5_000
# Our own timer ends a call at its deadline; the one on the wire is there for the server's sake and
# runs a little longer, so that it is always ours that ends it.
WIRE_SLACK_S = 0.02

OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.enable_retries", 0),  # the stack retries, within its budget
    ("grpc.max_receive_message_length", REPLY_BYTES_MAX),
    ("grpc.initial_reconnect_backoff_ms", RECONNECT_FIRST_MS),
    ("grpc.min_reconnect_backoff_ms", RECONNECT_MOST_MS),
    ("grpc.max_reconnect_backoff_ms", RECONNECT_MOST_MS),
    ("grpc.keepalive_time_ms", KEEPALIVE_TIME_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    # endpoints that differ in nothing else would share one connection, and its fate
    ("grpc.use_local_subchannel_pool", 1),
)


class Bounds(NamedTuple):
    """Of one collaborator, each process. A second of calls may wait behind those at work."""

    deadline_s: float = DEADLINE_S
    active_max: int = 256
    waiting_max: int = 256


class Service:
    """`name` is its label in metrics and messages; `stub` makes its methods from a channel."""

    def __init__(
        self,
        name: str,
        addresses: Sequence[str],
        stub: Callable[[Any], Any],
        bounds: Bounds | None = None,
    ) -> None:
        bounds = bounds or Bounds()
        self.name = name
        self._channels = [grpc.aio.insecure_channel(one, OPTIONS) for one in addresses]
        raw = [RawReplies(channel, name) for channel in self._channels]
        endpoints = [
            Endpoint(stub(channel), Breaker(address, changed=partial(_changed, name, address)))
            for address, channel in zip(addresses, raw, strict=True)
        ]
        self._parsers = raw[0].parsers  # the same for all endpoints
        self._stack: Stack[Any] = Stack(
            name,
            endpoints,
            bulkhead=Bulkhead(name, active_max=bounds.active_max, waiting_max=bounds.waiting_max),
            budget=RetryBudget(),
            deadline_s=bounds.deadline_s,
            listener=_Metrics(name),
        )
        for address in addresses:
            metrics.BREAKERS_NOT_CLOSED.labels(name, address).set(0)

    async def ask(self, method: str, request: Message, read: Callable[[Any], R]) -> R:
        """What `read` makes of the reply. It raises BadAnswer for one that breaks the contract.

        Raises Unavailable and Overloaded, and what the service says is wrong with the request.
        """

        async def attempt(stub: Any) -> R:
            limit_s = deadline.remaining_s(math.inf) + WIRE_SLACK_S  # the stack has set one
            try:
                raw = await getattr(stub, method)(request, timeout=limit_s)
            except grpc.aio.AioRpcError as error:
                raise error_of(self.name, error) from error
            return read(self._parsers[method](raw))

        return await self._stack.call(attempt)

    def fell_back(self) -> None:
        """Counts an answer that came from the cache instead of the service."""
        metrics.COLLABORATOR_FALLBACKS.labels(self.name).inc()

    async def close(self) -> None:
        """Ends the channels; calls under way are cancelled."""
        for channel in self._channels:
            await channel.close()


def _changed(name: str, address: str, state: BreakerState) -> None:
    metrics.BREAKER_CHANGES.labels(name, address, state.value).inc()
    metrics.BREAKERS_NOT_CLOSED.labels(name, address).set(state is not BreakerState.CLOSED)


class _Metrics:
    """See `resilience.stack.Listener`."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._duration = metrics.COLLABORATOR_DURATION.labels(name)
        self._retries = metrics.COLLABORATOR_RETRIES.labels(name)
        self._refused = metrics.COLLABORATOR_RETRIES_REFUSED.labels(name)
        self._fallbacks = metrics.COLLABORATOR_FALLBACKS.labels(name)

    def ended(self, outcome: str, seconds: float) -> None:
        metrics.COLLABORATOR_CALLS.labels(self._name, outcome).inc()
        self._duration.observe(seconds)

    def retried(self) -> None:
        self._retries.inc()

    def budget_exhausted(self) -> None:
        self._refused.inc()

    def fell_back(self) -> None:
        self._fallbacks.inc()
