"""What carries calls: one module a transport. Each feeds `feedcore_server.dispatch`, no more."""

from __future__ import annotations

from typing import Protocol


class Transport(Protocol):
    """What carries calls of a dispatcher. One a worker."""

    async def start(self, host: str, port: int) -> int:
        """Listens on a port shared with other workers; returns it. Raises OSError."""

    async def stop(self, grace_s: float) -> None:
        """Refuses new calls, lets those under way finish for `grace_s`, cancels the rest."""
