"""Passes the call's trace context on: back to the caller as trailing metadata, and into every log
line made while the call is handled."""

from __future__ import annotations

from typing import Any

import structlog

from feedcore.observe.tracing import TRACEPARENT
from feedcore_server.context import CallContext
from feedcore_server.dispatch import Interceptor, Proceed


def traced() -> Interceptor:
    """The interceptor."""

    async def intercept(call: CallContext, request: Any, proceed: Proceed) -> bytes:
        call.trailers.append((TRACEPARENT, call.trace.traceparent))
        tokens = structlog.contextvars.bind_contextvars(trace_id=call.trace.trace_hex)
        try:
            return await proceed(call, request)
        finally:
            structlog.contextvars.reset_contextvars(**tokens)

    return intercept
