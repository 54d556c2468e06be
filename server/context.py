"""CallContext: what a handler may know of its call, whichever transport carries it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from feedcore.observe import tracing
from feedcore.observe.tracing import Trace

NoteValue = str | int | float | bool
MetadataValue = str | bytes  # bytes under keys that end in "-bin", text under all others
Metadata = tuple[tuple[str, MetadataValue], ...]


async def _no_stream(_reply: bytes) -> None:
    raise RuntimeError("this call has one reply: return it")


class CallContext:
    """One call.

    `deadline_s`: on the clock of `Clock.monotonic`, None if the caller set none. `peer`: the
    caller's address. `identity`: the subject of the caller's TLS certificate, "" without one.

    `send`: sends one encoded message of a streamed reply and waits while the peer is slow.
    `compress`: gzip for the replies from here on (set it before each one, if need be); it is done
    only if the caller accepts gzip. `request_compressed`: whether the newest request message came
    compressed (None on grpc.aio, which does not say). `initial` and `trailers` are metadata
    for the caller: the first goes out before the first reply, the other with the status.

    Cancellation (the caller hung up, the deadline passed, the server stops) arrives as
    asyncio.CancelledError in the handler's task, once, at its next await.
    """

    __slots__ = (
        "_ascii",
        "_metadata",
        "_trace",
        "compress",
        "deadline_s",
        "identity",
        "initial",
        "method",
        "notes",
        "operation",
        "peer",
        "request_compressed",
        "send",
        "trailers",
        "user_id",
    )

    def __init__(
        self,
        method: str,  # "/feedcore.v1.FeedService/GetFeed"
        operation: str,  # "GetFeed"
        peer: str,
        metadata: Metadata | Callable[[], Metadata] = (),
        deadline_s: float | None = None,
        identity: str = "",
    ) -> None:
        self.method = method
        self.operation = operation
        self.peer = peer
        self.deadline_s = deadline_s
        self.identity = identity
        self.send: Callable[[bytes], Awaitable[None]] = _no_stream
        self.compress = False
        self.request_compressed: bool | None = None
        self.initial: list[tuple[str, MetadataValue]] = []
        self.trailers: list[tuple[str, MetadataValue]] = []
        self.notes: dict[str, NoteValue] = {}
        self.user_id = 0
        # Made when first asked for: most handlers look at none of it.
        self._metadata = metadata
        self._ascii: dict[str, str] | None = None
        self._trace: Trace | None = None

    @property
    def all_metadata(self) -> Metadata:
        """What the caller sent, in its order, repeated keys and binary values included."""
        if callable(self._metadata):
            self._metadata = self._metadata()
        return self._metadata

    @property
    def metadata(self) -> Mapping[str, str]:
        """The caller's ASCII metadata: lower-case keys, the last value of each."""
        if self._ascii is None:
            self._ascii = {key: value for key, value in self.all_metadata if isinstance(value, str)}
        return self._ascii

    @property
    def trace(self) -> Trace:
        """The caller's trace, continued, or a new one."""
        if self._trace is None:
            self._trace = tracing.from_metadata(self.metadata)
        return self._trace

    def note(self, **notes: NoteValue) -> None:
        """Adds fields to the call's log line. No content, no ids of users."""
        self.notes.update(notes)

    def remaining_s(self, now_s: float) -> float | None:
        """Seconds until the deadline, at least 0; None if there is none."""
        return None if self.deadline_s is None else max(0.0, self.deadline_s - now_s)
