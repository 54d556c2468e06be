"""What carries calls: one module or package a transport. Each feeds `feedcore_server.dispatch`, no
more."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from feedcore.errors import ConfigError

AUTO, NATIVE, GRPCIO = "auto", "native", "grpcio"


class Transport(Protocol):
    """What carries calls of a dispatcher. One a worker."""

    async def start(self, host: str, port: int) -> int:
        """Listens on a port shared with other workers; returns it. Raises OSError."""

    async def stop(self, grace_s: float) -> None:
        """Refuses new calls, lets those under way finish for `grace_s`, cancels the rest."""


class Choice(NamedTuple):
    """`name`: native or grpcio. `warning`: what the operator should know, "" if nothing."""

    name: str
    warning: str


def choose(wanted: str) -> Choice:
    """The transport to serve on. Raises ConfigError if `wanted` is native and it cannot be had."""
    if wanted == GRPCIO:
        return Choice(GRPCIO, "")
    try:
        from feedcore._native.h2 import library_version
    except ImportError as error:
        usable, detail = False, f"the native transport is not built ({error})"
    else:
        from feedcore_server.transports.native.library import installed_revision, judge

        usable, detail = judge(library_version()[0], installed_revision())
    if usable:
        return Choice(NATIVE, detail)
    if wanted == NATIVE:
        raise ConfigError(f"server.transport native: {detail}")
    return Choice(GRPCIO, f"serving on grpc.aio, some thousand calls a second a core: {detail}")
