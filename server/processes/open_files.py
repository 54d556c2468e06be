"""How many files a process may have open, and whether it is short of them.

Each connection is a descriptor, and so is each file of the store. Every process of ours raises its
soft limit to the hard one when it starts, and keeps a reserve: a connection whose descriptor would
be among the last `reserve` numbers is closed at once, so that the store can go on opening files. A
worker's only connection is not: somebody must be able to ask what is wrong.
(The kernel gives out the lowest number that is free: when that is among the last ones, all below
are in use.)

    state     while                                        what happens
    enough    else
    refusing  connections were closed since the last look  log, status
    blocked   the limit is below OPEN_FILES_MIN, or more   log, status, and a worker is not ready
              than half of the reserve is in use

The limit is read anew each time: `prlimit` changes it while a process runs. Not for: limits of the
whole machine (ENFILE), which no process can foresee.
"""

from __future__ import annotations

import errno
import os
import resource

from feedcore.observe import logs, metrics
from feedcore_server import limits

REMEDY = "raise the hard limit: ulimit -Hn, LimitNOFILE= of systemd"


def raise_limit() -> int:
    """Raises the soft limit to the hard one; the limit that is in force."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def limit() -> int:
    """The limit in force."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def reserve_of(files_max: int) -> int:
    """What is kept free of connections."""
    return min(limits.OPEN_FILES_RESERVE, files_max // 4)


def in_use() -> int:
    """Descriptors of this process. Looks at each: not for processes with thousands of them."""
    try:
        with os.scandir("/proc/self/fd") as found:
            return sum(1 for _ in found) - 1  # but for the one that lists them
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
        return limit()


class OpenFiles:
    """Of this process."""

    def __init__(self, role: str) -> None:
        self._role = role
        self._base = in_use()  # but for connections
        self._refused = 0
        self.limit = limit()
        self.short = ""  # why it is not enough, for people
        self.blocked = False

    def admits(self, descriptor: int) -> bool:
        """Whether a connection may keep its descriptor; counted if not."""
        if descriptor < self.limit - reserve_of(self.limit):
            return True
        self._refused += 1
        return False

    def look(self, connections: int) -> None:
        """Brings the state, log and metrics up to date; about once a second. `connections` that
        are open."""
        self.limit = limit()
        few = connections < limits.OPEN_FILES_COUNTED_MAX
        used = in_use() if few else self._base + connections
        if few:
            self._base = used - connections
        left = self.limit - used
        refused, self._refused = self._refused, 0
        before, self.short, self.blocked = self.short, "", True
        if self.limit < limits.OPEN_FILES_MIN:
            self.short = f"the limit is {self.limit}; at least {limits.OPEN_FILES_MIN} are needed"
        elif left < reserve_of(self.limit) // 2:
            self.short = f"{max(left, 0)} of {self.limit} are left"
        else:
            self.blocked = False
        if refused and not self.blocked:
            self.short = f"the limit is {self.limit}; connections are closed"
        self._tell(before, refused)

    def _tell(self, before: str, refused: int) -> None:
        log = logs.get("open files")
        if self.short and (refused or not before):
            log.error("too few open files", detail=self.short, closed=refused, remedy=REMEDY)
        elif before and not self.short:
            log.info("open files are enough again", limit=self.limit)
        metrics.OPEN_FILES_LIMIT.labels(self._role).set(self.limit)
        metrics.OPEN_FILES_SHORT.set(bool(self.short))
