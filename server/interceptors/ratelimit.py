"""Refuses calls of a caller above its rate, which holds over all nodes. Health, reflection and
Admin are not counted: operators must get in when callers are too many.
"""

from __future__ import annotations

from typing import Any

from feedcore.errors import Overloaded
from feedcore.ports.limiter import Limiter
from feedcore_server.context import CallContext
from feedcore_server.dispatch import Interceptor, Proceed

BURST_S = 1.0  # what a caller may save up: a second of its rate, and at least one call
LIMITED = (
    "/feedcore.v1.FeedService/",
    "/feedcore.v1.PublishService/",
    "/feedcore.collaborators.v1.",
)


def limited(limiter: Limiter, rate_per_s: float) -> Interceptor:
    """The interceptor. RESOURCE_EXHAUSTED says when to try again."""
    burst = max(1.0, rate_per_s * BURST_S)

    async def intercept(call: CallContext, request: Any, proceed: Proceed) -> bytes:
        if call.method.startswith(LIMITED):
            allowed, retry_after_ms = await limiter.take(_caller(call), rate_per_s, burst)
            if not allowed:
                raise Overloaded("rate of this caller", f"{rate_per_s:g}/s", retry_after_ms)
        return await proceed(call, request)

    return intercept


def _caller(call: CallContext) -> bytes:
    """Its certificate's subject, else its address without the port, which changes."""
    return (call.identity or call.peer.rpartition(":")[0] or call.peer).encode()
