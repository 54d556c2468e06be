"""How `doctor` and status find out about an engine: probes that are bounded, and judged in one way.

Invariants: a probe never raises and never takes longer than its bound; all run concurrently. Not
for what a finding is: `feedcore.ports.finding` says that.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from feedcore.adapters.common.machine import fault_of
from feedcore.clock import Clock
from feedcore.errors import OutOfResources
from feedcore.ports.finding import Finding, State
from feedcore.resilience.gather import gather_bounded

PROBES_MAX = 64  # at once: nodes of a large cluster


class Probe(NamedTuple):
    """`run` gives findings; what it raises is a finding, too, with this `mend`."""

    engine: str
    what: str
    run: Callable[[], Awaitable[Sequence[Finding]]]
    mend: str


async def run_probes(probes: Sequence[Probe], timeout_s: float) -> list[Finding]:
    """Findings in the order of the probes."""
    found = await gather_bounded(probes, lambda one: _run(one, timeout_s), PROBES_MAX)
    return [finding for part in found for finding in part]


async def _run(probe: Probe, timeout_s: float) -> Sequence[Finding]:
    try:
        async with asyncio.timeout(timeout_s):
            return await probe.run()
    except TimeoutError:
        why = f"no answer within {timeout_s:g} s"
    except Exception as error:  # whatever a client library raises: that is what was looked for
        fault = fault_of(error)
        if isinstance(fault, OutOfResources):  # of this process, not of the engine
            return [Finding(probe.engine, probe.what, State.DOWN, str(fault))]
        why = describe(error)
    return [Finding(probe.engine, probe.what, State.DOWN, why, probe.mend)]


def describe(error: BaseException) -> str:
    """One line."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ConnectionRefusedError):
            return "connection refused: nothing listens there"
        if isinstance(cause, socket.gaierror):
            return "the name does not resolve"
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is refused: {cause.verify_message}"
        cause = cause.__cause__ or cause.__context__
    text = str(error) or getattr(error, "strerror", "") or type(error).__name__
    return " ".join(text.split())


async def reach(address: str, clock: Clock, tls: ssl.SSLContext | None = None) -> float:
    """Milliseconds that a connection takes, with its TLS handshake. Raises OSError."""
    host, _, port = address.rpartition(":")
    begun_s = clock.monotonic()
    _, writer = await asyncio.open_connection(host.strip("[]"), int(port), ssl=tls)
    took_ms = (clock.monotonic() - begun_s) * 1e3
    writer.close()
    return took_ms


def skew(engine: str, what: str, ahead_ms: float, warn_ms: int) -> Finding:
    """Of a clock that is so far ahead of ours (or behind, if negative)."""
    if abs(ahead_ms) <= warn_ms:
        return Finding(engine, what, State.OK, f"clock within {abs(ahead_ms):.0f} ms of ours")
    side = "ahead of" if ahead_ms > 0 else "behind"
    return Finding(
        engine,
        what,
        State.WARN,
        f"clock {abs(ahead_ms) / 1e3:.1f} s {side} ours",
        "one of the two hosts has lost its time server: check chrony or ntpd on both",
    )
