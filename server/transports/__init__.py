"""What carries calls: one module or package a transport. Each feeds `feedcore_server.dispatch`, no
more."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

from feedcore.errors import ConfigError
from feedcore.native import COMPILED

AUTO, NATIVE, GRPCIO = "auto", "native", "grpcio"


class Transport(Protocol):
    """What carries calls of a dispatcher. One a worker."""

    async def start(self, host: str, port: int) -> int:
        """Serves on a port shared with other workers; returns it. Raises OSError."""

    async def stop(self, grace_s: float) -> None:
        """Refuses new calls, lets those under way finish for `grace_s`, cancels the rest."""


class Choice(NamedTuple):
    """`name`: native or grpcio. `warning`: what the operator should know, "" if nothing."""

    name: str
    warning: str


def choose(wanted: str, look: Callable[[], tuple[bool, str]] | None = None) -> Choice:
    """The transport to serve on. `look` says whether the native one can serve here, and why not.
    Raises ConfigError if `wanted` is native and it cannot."""
    if wanted == GRPCIO:
        return Choice(GRPCIO, "")
    usable, detail = (look or native_usable)()
    if usable:
        return Choice(NATIVE, detail)
    if wanted == NATIVE:
        raise ConfigError(f"server.transport native: {detail}")
    return Choice(GRPCIO, f"serving on grpc.aio, some thousand calls a second a core: {detail}")


def native_usable() -> tuple[bool, str]:
    """(whether the native transport can serve here, what to tell the operator)."""
    if not COMPILED:
        return False, "compiled modules are missing, or switched off by FEEDCORE_NO_EXTENSIONS"
    try:
        from feedcore._native.http2 import h2
    except ImportError as error:
        return False, f"the native transport is not built ({error}); it needs libnghttp2"
    from feedcore_server.transports.native.library import carried, installed_revision, judge

    if carried(Path(h2.__file__)):
        return True, ""
    return judge(h2.library_version()[0], installed_revision())
