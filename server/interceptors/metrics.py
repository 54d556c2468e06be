"""Counts and times every call. Outermost, so that what other interceptors refuse is counted,
too."""

from __future__ import annotations

from typing import Any

from feedcore.clock import Clock
from feedcore.observe import metrics
from feedcore_server.context import CallContext
from feedcore_server.dispatch import Interceptor, Proceed
from feedcore_server.status import outcome_of


def measured(clock: Clock) -> Interceptor:
    """The interceptor. Children of labelled metrics are looked up once for each label value."""
    durations: dict[str, Any] = {}
    counters: dict[tuple[str, str], Any] = {}

    def count(operation: str, status: str, seconds: float) -> None:
        key = (operation, status)
        if key not in counters:
            counters[key] = metrics.CALLS.labels(operation, status)
            durations[operation] = metrics.CALL_DURATION.labels(operation)
        counters[key].inc()
        durations[operation].observe(seconds)

    async def intercept(call: CallContext, request: Any, proceed: Proceed) -> bytes:
        began = clock.monotonic()
        status = "ok"
        metrics.CALLS_IN_FLIGHT.inc()
        try:
            return await proceed(call, request)
        except BaseException as error:
            status = outcome_of(error, "").name
            raise
        finally:
            metrics.CALLS_IN_FLIGHT.dec()
            count(call.operation, status, clock.monotonic() - began)

    return intercept
