"""JobOutbox: how stores hand over fan-out jobs so that none is lost: the job is a row in the same
batch as what it is about, and goes to the queue after that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from feedcore.adapters.cql.driver.session import Write
from feedcore.ports import FanoutJob


class JobOutbox(Protocol):
    """One a process."""

    def next_job_id(self) -> int:
        """Unique over all nodes, ascending in time, 63 bits."""

    def write_of(self, job: FanoutJob) -> Write:
        """The row, for the batch that makes the job true."""

    def relay(self, jobs: Sequence[FanoutJob]) -> None:
        """After that batch: to the queue at once, behind the call; the row goes when the queue has
        the job. When too many wait, or the queue is away, the sweeper finds the rows.
        """
