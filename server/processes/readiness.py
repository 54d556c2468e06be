"""Whether a worker is ready, as its callers would find it: looked at about once a second.

    part         has a fault while                                     told by
    store        the store says so (`Store.fault`)                     health, log
    calls        FULL_LASTS looks in a row find as many calls at work  health, metrics, status, log
                 as there may be: the next is refused
    open files   there are too few (module open_files)                 health, metrics, status, log

Health says NOT_SERVING while a part has a fault; what the worker has begun it goes on with. Not for
a worker that is not there, or that drains: those have told health before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from feedcore.adapters.common.machine import fault_of
from feedcore.observe import logs, metrics
from feedcore_server import limits
from feedcore_server.handlers.health import HealthHandlers
from feedcore_server.processes.open_files import OpenFiles

STORE, CALLS, OPEN_FILES = "store", "calls", "open files"


class Readiness:
    """Of one worker. `store_fault` is "" or says what is wrong; `connections` counts the open ones;
    `full` says whether the next call would be refused."""

    def __init__(
        self,
        health: HealthHandlers,
        store_fault: Callable[[], str],
        files: OpenFiles,
        connections: Callable[[], int],
        full: Callable[[], bool],
    ) -> None:
        self._health = health
        self._store_fault = store_fault
        self._files = files
        self._connections = connections
        self._full = full
        self._full_looks = 0
        self._told: dict[str, str] = {}  # part -> fault

    async def run(self) -> None:
        """Looks until it is cancelled. Raises StoreError if this process cannot go on."""
        while True:
            self.look()
            await asyncio.sleep(limits.METRICS_REFRESH_S)

    def look(self) -> None:
        """Brings health, metrics and log up to date. Raises StoreError."""
        self._say(STORE, self._asked(self._store_fault))
        self._full_looks = self._full_looks + 1 if self._full() else 0
        lasting = self._full_looks >= limits.FULL_LASTS
        self._say(CALLS, "as many are at work as may be" if lasting else "")
        self._files.look(self._connections())
        self._say(OPEN_FILES, self._files.short if self._files.blocked else "")

    def _asked(self, store_fault: Callable[[], str]) -> str:
        """A look that the machine does not allow (no descriptor, no memory) has found that out."""
        try:
            return store_fault()
        except OSError as error:
            return str(fault_of(error) or error)

    def _say(self, part: str, fault: str) -> None:
        told = self._told.get(part, "")
        if fault == told:
            return
        self._told[part] = fault
        log = logs.get(part)
        log.error("not serving", detail=fault) if fault else log.warning("serving again")
        metrics.NOT_READY.labels(part).set(bool(fault))
        self._health.set_fault(fault, part)
