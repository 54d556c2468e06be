"""CallContext: what a handler may know of its call, whichever transport carries it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from feedcore.observe.tracing import Trace

NoteValue = str | int | float | bool


async def _no_stream(_reply: bytes) -> None:
    raise RuntimeError("a unary call has one reply: return it")


@dataclass(slots=True)
class CallContext:
    """One call.

    `deadline_s`: on the clock of `Clock.monotonic`, None if the caller set none. `metadata`: the
    caller's ASCII metadata, lower-case keys, the last value of each. `send`: sends one encoded
    message of a streamed reply and waits while the peer is slow. Cancellation (the caller hung up,
    the deadline passed, the server stops) arrives as asyncio.CancelledError in the handler's task,
    at its next await.
    """

    method: str  # "/feedcore.v1.FeedService/GetFeed"
    operation: str  # "GetFeed"
    peer: str
    metadata: Mapping[str, str]
    trace: Trace
    deadline_s: float | None = None
    send: Callable[[bytes], Awaitable[None]] = _no_stream
    trailers: list[tuple[str, str]] = field(default_factory=list)
    notes: dict[str, NoteValue] = field(default_factory=dict)
    user_id: int = 0

    def note(self, **notes: NoteValue) -> None:
        """Adds fields to the call's log line. No content, no ids of users."""
        self.notes.update(notes)

    def remaining_s(self, now_s: float) -> float | None:
        """Seconds until the deadline, at least 0; None if there is none."""
        return None if self.deadline_s is None else max(0.0, self.deadline_s - now_s)
