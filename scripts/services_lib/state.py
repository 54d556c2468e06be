"""What runs below a folder: `services.json`, its nodes, and the lock of the process that changes
it.

The file is replaced whole, so that a reader never sees half of it. A node's pid goes with the
time its process started: a number used again by another process is not the node. Not for
starting or asking engines.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

VERSION = 1
KINDS = ("redis", "kafka", "cassandra")


class Trouble(Exception):
    """What a person has to be told; the command ends with it and this exit code."""

    code = 1


class Unavailable(Trouble):
    """The engine cannot be had on this machine: a package is missing, a registry out of reach."""

    code = 3


@dataclass(slots=True)
class Node:
    """One process of an engine. `pid` is None while it is not started."""

    name: str
    kind: str
    index: int
    host: str
    ports: dict[str, int]
    data_dir: str
    log: str
    command: list[str]
    pid: int | None = None
    pid_started: int | None = None

    @property
    def address(self) -> str:
        return f"{self.host}:{self.ports['client']}"

    @property
    def folder(self) -> Path:
        """Configuration, data and temporary files: all that a wipe removes."""
        return Path(self.data_dir).parent

    def alive(self) -> bool:
        """Whether its process runs, stopped by a signal or not."""
        return self.pid is not None and self.pid_started == process_started(self.pid)

    def signal(self, number: signal.Signals) -> None:
        """To its whole process group, which start_new_session made its own."""
        if self.pid is not None and self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)


def process_started(pid: int) -> int | None:
    """Clock ticks since boot when the process started; None when it is gone or a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


@dataclass(slots=True)
class State:
    """The content of services.json."""

    folder: Path
    base_port: int
    counts: dict[str, int] = field(default_factory=dict)
    nodes: dict[str, Node] = field(default_factory=dict)

    def of(self, kind: str) -> list[Node]:
        return [node for node in self.nodes.values() if node.kind == kind]

    def kinds(self) -> list[str]:
        return [kind for kind in KINDS if self.of(kind)]

    def save(self) -> None:
        text = json.dumps(
            {
                "version": VERSION,
                "folder": str(self.folder),
                "base_port": self.base_port,
                "counts": self.counts,
                "nodes": {
                    name: asdict(node) | {"address": node.address}
                    for name, node in self.nodes.items()
                },
            },
            indent=2,
        )
        path = state_path(self.folder)
        fresh = path.with_suffix(".fresh")
        fresh.write_text(text + "\n", encoding="utf-8")
        fresh.replace(path)


def state_path(folder: Path) -> Path:
    return folder / "services.json"


def load(folder: Path) -> State | None:
    """None when nothing was ever started there."""
    try:
        raw = json.loads(state_path(folder).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    if raw["version"] != VERSION:
        raise Trouble(f"{state_path(folder)} has version {raw['version']}, not {VERSION}")
    nodes = {}
    for name, values in raw["nodes"].items():
        values.pop("address")
        nodes[name] = Node(**values)
    return State(folder, raw["base_port"], raw["counts"], nodes)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """One changer at a time; the lock goes with the process that holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
