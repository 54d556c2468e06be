"""What every engine of this package offers, and how a question becomes a problem in words.

A problem is None or a line to show; asking never raises for an engine that is down. Not for
processes: process.py.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, Protocol

from ..state import Node
from ..wire.sockets import WireError

# Serial: the least memory and threads, its pauses short on heaps this small. A JVM without memory
# must end, not limp.
JVM = ["-XX:+UseSerialGC", "-XX:+ExitOnOutOfMemoryError", "-XX:-UsePerfData"]
# Three nodes are for what happens to them, not for load: without C2 they start with a third less
# work.
JVM_OF_THREE = ["-XX:TieredStopAtLevel=1"]


P = ParamSpec("P")


class Engine(Protocol):
    """One kind of engine."""

    kind: str
    # How long a start may take until the engine really answers, on a busy machine.
    ready_s: float

    def plan(self, folder: Path, base: int, count: int, cache: Path) -> list[Node]:
        """Its nodes, not started. Fetches what they need."""

    def prepare(self, node: Node, nodes: list[Node]) -> None:
        """Writes configuration, formats storage that is new."""

    def waves(self, nodes: list[Node]) -> list[list[Node]]:
        """Which nodes start together, one wave after the other answers."""

    def settle(self, nodes: list[Node]) -> None:
        """Makes one cluster of nodes that answer, where they don't do it by themselves."""

    def node_problem(self, node: Node) -> str | None:
        """Why this node does not serve."""

    def set_problem(self, nodes: list[Node]) -> str | None:
        """Why the nodes together do not serve what is written through them."""


def layout(folder: Path, kind: str, index: int) -> tuple[str, Path, str]:
    """A node's name, folder and log."""
    name = f"{kind}-{index}"
    return name, folder / name, str(folder / "logs" / f"{name}.log")


def jvm(heap_mb: int, count: int) -> list[str]:
    """Options of one node's JVM among `count`."""
    return [f"-Xms{heap_mb}M", f"-Xmx{heap_mb}M", *JVM, *(JVM_OF_THREE if count > 1 else [])]


def in_words(ask: Callable[P, str | None]) -> Callable[P, str | None]:
    """A refused, silent or strange answer becomes the problem that is returned."""

    @functools.wraps(ask)
    def asked(*args: P.args, **kwargs: P.kwargs) -> str | None:
        try:
            return ask(*args, **kwargs)
        except (OSError, WireError, struct.error) as error:
            return f"{type(error).__name__}: {error}"

    return asked
