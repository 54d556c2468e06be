"""One log line a call: operation, status, duration, trace, and what the handler noted.

Calls that end well are `info`, slow ones `warning`; a bug is `error` with its traceback. Reads of
feeds that end well are `debug`: there are ten for each other call, and most are answered before any
interceptor. Users appear as a keyed hash only.
"""

from __future__ import annotations

from logging import DEBUG, INFO
from typing import Any

from feedcore.clock import Clock
from feedcore.observe import logs
from feedcore_server.context import CallContext
from feedcore_server.dispatch import Interceptor, Proceed
from feedcore_server.limits import SLOW_CALL_MS
from feedcore_server.status import OK, Outcome, outcome_of

# Streams last as long as callers like; these two look at whole tables and feeds.
READS = frozenset({"GetFeed", "CheckNew"})
NEVER_SLOW = frozenset({"HealthWatch", "ServerReflectionInfo", "Import", "GetStatus", "Audit"})


def logged(clock: Clock, user_hash: logs.UserHash) -> Interceptor:
    """The interceptor."""
    log = logs.get("calls")

    def write(
        call: CallContext,
        outcome: Outcome,
        failure: BaseException | None,
        duration_ms: float,
        *,
        slow: bool,
        quiet: bool,
    ) -> None:
        fields: dict[str, Any] = {
            "operation": call.operation,
            "status": outcome.name,
            "duration_ms": round(duration_ms, 3),
            "trace_id": call.trace.trace_hex,
            "span_id": f"{call.trace.span_id:016x}",
        }
        if call.user_id:
            fields["user"] = user_hash(call.user_id)
        fields.update(call.notes)
        if not outcome.expected:
            log.error("call failed", exc_info=failure, **fields)
        elif slow:
            log.warning("slow call", **fields)
        else:
            log.log(DEBUG if quiet else INFO, "call", **fields)

    async def intercept(call: CallContext, request: Any, proceed: Proceed) -> bytes:
        began = clock.monotonic()
        outcome = OK
        failure: BaseException | None = None
        try:
            return await proceed(call, request)
        except BaseException as error:
            outcome = outcome_of(error, call.trace.trace_hex)
            failure = error
            raise
        finally:
            duration_ms = (clock.monotonic() - began) * 1_000
            slow = duration_ms >= SLOW_CALL_MS and call.operation not in NEVER_SLOW
            quiet = failure is None and not slow and call.operation in READS
            if not quiet or log.is_enabled_for(DEBUG):
                write(call, outcome, failure, duration_ms, slow=slow, quiet=quiet)
            # This frame is in the error's traceback: without it they would keep each other, and
            # with them the request, until the collector comes.
            failure = None

    return intercept
