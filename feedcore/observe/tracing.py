"""W3C trace context: taken from a call's metadata, passed on with everything the call causes.

The format is read and written by OpenTelemetry's propagator; no SDK is needed and none is started.
A call that brings no valid `traceparent` gets a new trace id, so that its log lines can be found.
Not an exporter of spans.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import NamedTuple

from opentelemetry import trace as otel
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

TRACEPARENT = "traceparent"

_PROPAGATOR = TraceContextTextMapPropagator()


class Trace(NamedTuple):
    """`span_id` is this server's own span; `parent_id` is the caller's, 0 if the trace begins
    here."""

    trace_id: int
    span_id: int
    parent_id: int
    sampled: bool

    @property
    def trace_hex(self) -> str:
        """The trace id as logs show it."""
        return f"{self.trace_id:032x}"

    @property
    def traceparent(self) -> str:
        """The header value that names this span as the parent of what comes next."""
        return f"00-{self.trace_id:032x}-{self.span_id:016x}-{int(self.sampled):02x}"


def from_metadata(metadata: Mapping[str, str]) -> Trace:
    """Continues the caller's trace, or begins one if there is no valid `traceparent`."""
    if TRACEPARENT in metadata:
        carrier = {TRACEPARENT: metadata[TRACEPARENT]}
        caller = otel.get_current_span(_PROPAGATOR.extract(carrier)).get_span_context()
        if caller.is_valid:
            sampled = bool(caller.trace_flags.sampled)
            return Trace(caller.trace_id, _new_id(64), caller.span_id, sampled)
    return Trace(_new_id(128), _new_id(64), 0, False)


def _new_id(bits: int) -> int:
    """A random id that is not zero: zero means `no id` in W3C trace context."""
    return random.getrandbits(bits) or 1
