"""FailureDetector: whether what a Redis node answers may be relied on.

State of a node   its answers      next state
trusted           count            suspect, after a failure
suspect           do not count     probation, after an answer
probation         do not count     suspect, after a failure; after PROBATION_S without one: resync
                                   if the node may have lost something, else trusted
resync            do not count     trusted, after everything that this process keeps was invalidated
                                   (`resynced`)

Other processes have invalidations pending that a suspect node did not take; they flush them within
its probation. After an outage (the breaker opened), a restart, a failover or a lost log, they may
have died with their process or with the server: hence the resync. After a short failure without any
of those the epochs that are compared are the same ones, and trust comes back by itself.
"""

from __future__ import annotations

from collections.abc import Callable

# Pending invalidations are flushed every 100 ms, and loads that began before end within it.
PROBATION_S = 2.0


class _Node:
    __slots__ = ("answers_since_s", "incarnation", "must_resync", "suspect")

    def __init__(self) -> None:
        self.suspect = False  # or on probation, or due for a resync
        self.must_resync = False
        self.answers_since_s: float | None = None  # of a suspect: None before its first answer
        self.incarnation = b""


class FailureDetector:
    """Of all nodes that one process talks to. `monotonic`: seconds."""

    def __init__(self, monotonic: Callable[[], float], probation_s: float = PROBATION_S) -> None:
        self._monotonic = monotonic
        self._probation_s = probation_s
        self._nodes: dict[str, _Node] = {}
        self.outages = 0

    def failed(self, node: str, *, outage: bool) -> None:
        """A batch got no answer. `outage`: not for the first time."""
        state = self._of(node)
        if outage:
            self._require_resync(state)
        state.suspect, state.answers_since_s = True, None

    def answered(self, node: str) -> None:
        """A batch was answered."""
        state = self._of(node)
        if state.suspect and state.answers_since_s is None:
            state.answers_since_s = self._monotonic()

    def connected(self, node: str, incarnation: bytes) -> None:
        """`incarnation`: 8 bytes that differ for each start of a server."""
        state = self._of(node)
        if state.incarnation and state.incarnation != incarnation:
            self.lost(node)
        state.incarnation = incarnation

    def lost(self, node: str) -> None:
        """What the node knew is not all there."""
        state = self._of(node)
        self._require_resync(state)
        state.suspect, state.answers_since_s = True, self._monotonic()

    def slots_moved(self) -> None:
        """Keys have another master: maybe one that lacks the last writes of the one before."""
        for node in self._nodes:
            self.lost(node)

    def is_trusted(self, node: str) -> bool:
        """Whether the node's answers count."""
        state = self._nodes.get(node)
        if state is None or not state.suspect:
            return state is not None
        if state.must_resync or not self._is_probation_over(state):
            return False
        state.suspect, state.answers_since_s = False, None
        return True

    def is_resync_due(self) -> bool:
        """A node's probation is over, and everything kept is to be invalidated."""
        return any(
            state.suspect and state.must_resync and self._is_probation_over(state)
            for state in self._nodes.values()
        )

    def resynced(self, begun_s: float) -> None:
        """Everything kept was invalidated, by a step that began then: nodes whose probation was
        over by then are trusted.
        """
        for state in self._nodes.values():
            since_s = state.answers_since_s
            over = since_s is not None and begun_s - since_s >= self._probation_s
            if state.suspect and state.must_resync and over:
                state.suspect, state.must_resync, state.answers_since_s = False, False, None

    def incarnation(self, node: str) -> bytes:
        """Of the server that was connected last; empty if none was."""
        state = self._nodes.get(node)
        return state.incarnation if state is not None else b""

    @property
    def suspects(self) -> int:
        """Nodes that are not trusted."""
        return sum(state.suspect for state in self._nodes.values())

    def _is_probation_over(self, state: _Node) -> bool:
        since_s = state.answers_since_s
        return since_s is not None and self._monotonic() - since_s >= self._probation_s

    def _require_resync(self, state: _Node) -> None:
        if not state.must_resync:
            state.must_resync = True
            self.outages += 1

    def _of(self, node: str) -> _Node:
        state = self._nodes.get(node)
        if state is None:
            state = self._nodes[node] = _Node()
        return state
