"""Trust: whether what a Redis node says of validation may be relied on.

State of a node   what it says          leads to
trusted           counts                a failure: away
away              is not asked for      an answer: grace
grace             does not count        GRACE_S without a failure: settling, or trusted
settling          does not count        `settle`, after everything kept was forgotten: trusted

Others owe a node that was away what they could not tell it; they pay within the grace. After an
outage (the breaker opened), a restart, a failover, or a lost log, keepings are forgotten before the
node is trusted again: what was owed may have died with its debtor, or with the server. A short
failure without any of those ends in trust: the epochs that are compared are still the same ones.
"""

from __future__ import annotations

from collections.abc import Callable

GRACE_S = 2.0  # debts are paid every 100 ms, and loads that began before end within it


class _Node:
    __slots__ = ("failed", "forget", "incarnation", "returned_s")

    def __init__(self) -> None:
        self.failed = False
        self.forget = False
        self.returned_s: float | None = None
        self.incarnation = b""


class Trust:
    """Of all nodes that one process talks to. `monotonic`: seconds."""

    def __init__(self, monotonic: Callable[[], float], grace_s: float = GRACE_S) -> None:
        self._monotonic = monotonic
        self._grace_s = grace_s
        self._nodes: dict[str, _Node] = {}
        self.outages = 0

    def failed(self, node: str, *, outage: bool) -> None:
        """A batch got no answer. `outage`: not for the first time."""
        state = self._of(node)
        if outage and not state.forget:
            self._must_forget(state)
        state.failed, state.returned_s = True, None

    def answered(self, node: str) -> None:
        """A batch was answered."""
        state = self._of(node)
        if state.failed and state.returned_s is None:
            state.returned_s = self._monotonic()

    def connected(self, node: str, incarnation: bytes) -> None:
        """`incarnation`: 8 bytes that differ for each start of a server."""
        state = self._of(node)
        if state.incarnation and state.incarnation != incarnation:
            self.lost(node)
        state.incarnation = incarnation

    def lost(self, node: str) -> None:
        """What the node knew is not all there."""
        state = self._of(node)
        self._must_forget(state)
        state.failed, state.returned_s = True, self._monotonic()

    def slots_moved(self) -> None:
        """Keys have another master: maybe one that lacks the last writes of the one before."""
        for node in self._nodes:
            self.lost(node)

    def is_trusted(self, node: str) -> bool:
        """Whether the node's answers count."""
        state = self._nodes.get(node)
        if state is None or not state.failed:
            return state is not None
        if self._in_grace(state) or state.forget:
            return False
        state.failed, state.returned_s = False, None
        return True

    def is_settling(self) -> bool:
        """A node's grace is over, and everything kept is to be forgotten."""
        return any(
            state.failed and state.forget and not self._in_grace(state)
            for state in self._nodes.values()
        )

    def settle(self, begun_s: float) -> None:
        """Everything kept was forgotten, by a step that began then: nodes whose grace was over by
        then are trusted.
        """
        for state in self._nodes.values():
            over = state.returned_s is not None and begun_s - state.returned_s >= self._grace_s
            if state.failed and state.forget and over:
                state.failed, state.forget, state.returned_s = False, False, None

    def incarnation(self, node: str) -> bytes:
        """Of the server that was connected last; empty if none was."""
        state = self._nodes.get(node)
        return state.incarnation if state is not None else b""

    @property
    def away(self) -> int:
        """Nodes that are not trusted."""
        return sum(state.failed for state in self._nodes.values())

    def _in_grace(self, state: _Node) -> bool:
        back = state.returned_s
        return back is None or self._monotonic() - back < self._grace_s

    def _must_forget(self, state: _Node) -> None:
        if not state.forget:
            state.forget = True
            self.outages += 1

    def _of(self, node: str) -> _Node:
        state = self._nodes.get(node)
        if state is None:
            state = self._nodes[node] = _Node()
        return state
