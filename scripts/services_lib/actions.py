"""Starting, stopping and asking sets of nodes: what the commands do, without their words.

A process that changes a folder holds its lock. What is started is in services.json before anybody
waits for it, so that a start that fails or is interrupted can be stopped. Not for parsing
arguments.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from . import ports, process
from .engines import ENGINES
from .state import KINDS, Node, State, Trouble, load, state_path

# How long a killed process may still hold its ports: a JVM gives back a gigabyte first.
PORT_S = 5.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a start shall bring up. A count of None: as many as there were, else one."""

    counts: dict[str, int | None]
    base_port: int | None
    free_ports: bool
    wipe: bool
    cache: Path


def start(folder: Path, wanted: Wanted) -> State:
    """Returns when everything answers; kinds that run already stay as they are."""
    state = load(folder)
    if state is None or untouched(state):
        state = State(folder, base_of(wanted))
    if wanted.base_port not in (None, state.base_port):
        raise Trouble(f"{folder} is at base port {state.base_port}; `stop --wipe` to move it")
    fresh: list[str] = []
    for kind, asked in wanted.counts.items():
        there = state.of(kind)
        if wanted.wipe:
            wipe(state, there)
            there = []
        count = asked or len(there) or 1
        if there and count != len(there):
            raise Trouble(f"{folder} has {kind} with {len(there)} nodes: --wipe to change that")
        fresh += [] if there and all(node.alive() for node in there) else [kind]
        state.counts[kind] = count
    for kind in fresh:
        # Fetches, and may find that it cannot: before anything is started.
        planned = ENGINES[kind].plan(folder, state.base_port, state.counts[kind], wanted.cache)
        adopt(state, planned)
    # All processes first, so that slow engines start beside each other.
    for kind in fresh:
        first = ENGINES[kind].waves(state.of(kind))[0]
        launch(state, [node for node in first if not node.alive()])
    for kind in KINDS:
        if kind in wanted.counts:
            bring_up(state, kind)
    return state


def untouched(state: State) -> bool:
    """Planned, but never started: its ports may be chosen anew."""
    return not any(Path(node.data_dir).exists() for node in state.nodes.values())


def fetch(folder: Path, kinds: list[str], cache: Path) -> None:
    """Makes sure of everything that a start of three nodes needs."""
    for kind in kinds:
        ENGINES[kind].plan(folder, ports.BASE_PORT, ports.NODES_MAX, cache)


def base_of(wanted: Wanted) -> int:
    if wanted.free_ports:
        return ports.free_base()
    return wanted.base_port or ports.BASE_PORT


def adopt(state: State, planned: list[Node]) -> None:
    """Takes over what is planned; a node that runs keeps its process."""
    for node in planned:
        before = state.nodes.get(node.name)
        if before is not None and before.alive():
            node.pid, node.pid_started = before.pid, before.pid_started
        state.nodes[node.name] = node
    state.save()


def launch(state: State, nodes: list[Node]) -> None:
    """Prepares all, then starts all: formatting one must not delay its peers."""
    for node in nodes:
        for port in node.ports.values():
            await_port(node, port)
        ENGINES[node.kind].prepare(node, state.of(node.kind))
    for node in nodes:
        process.spawn(node)
        state.save()


def await_port(node: Node, port: int) -> None:
    """A process that was killed holds its ports until the kernel has taken it apart."""
    until = time.monotonic() + PORT_S
    while not ports.bindable(node.host, port):
        if time.monotonic() > until:
            raise Trouble(f"{node.name}: {node.host}:{port} is taken; --base-port moves it")
        time.sleep(process.POLL_S)


def bring_up(state: State, kind: str) -> None:
    """Wave after wave, then the whole set until what is written through it is read."""
    engine, nodes = ENGINES[kind], state.of(kind)
    for wave in engine.waves(nodes):
        launch(state, [node for node in wave if not node.alive()])
        process.wait_until(wave, partial(node_problems, wave), engine.ready_s)
    engine.settle(nodes)
    process.wait_until(nodes, lambda: engine.set_problem(nodes), engine.ready_s)


def node_problems(nodes: list[Node]) -> str | None:
    for node in nodes:
        said = ENGINES[node.kind].node_problem(node)
        if said is not None:
            return f"{node.name}: {said}"
    return None


def start_node(folder: Path, name: str) -> Node:
    """Starts one node of a set again, with its data; returns when it serves."""
    state, node = known(folder, name)
    if not node.alive():
        launch(state, [node])
    engine = ENGINES[node.kind]
    process.wait_until([node], lambda: engine.node_problem(node), engine.ready_s)
    return node


def stop_node(folder: Path, name: str) -> Node:
    state, node = known(folder, name)
    process.end([node])
    state.save()
    return node


def known(folder: Path, name: str) -> tuple[State, Node]:
    state = load(folder)
    if state is None or name not in state.nodes:
        names = ", ".join(state.nodes) if state else "none"
        raise Trouble(f"{folder} has no node {name}; there are: {names}")
    return state, state.nodes[name]


def stop(folder: Path, kinds: list[str], *, wiping: bool, at_once: bool) -> list[Node]:
    """Ends what runs, all at once; data and ports stay unless wiped."""
    state = load(folder)
    if state is None:
        return []
    nodes = [node for kind in kinds for node in state.of(kind)]
    process.end(nodes, at_once=at_once or wiping)
    state.save()
    if wiping:
        wipe(state, nodes)
    return nodes


def wipe(state: State, nodes: list[Node]) -> None:
    # No need to leave in order what is deleted.
    process.end(nodes, at_once=True)
    for node in nodes:
        shutil.rmtree(node.folder, ignore_errors=True)
        Path(node.log).unlink(missing_ok=True)
        del state.nodes[node.name]
        state.counts.pop(node.kind, None)
    if state.nodes:
        state.save()
    else:
        # With the last node goes the choice of ports.
        state_path(state.folder).unlink(missing_ok=True)


def check(folder: Path) -> dict[str, str | None]:
    """Each kind that was started: None, or why it does not serve."""
    state = load(folder)
    if state is None or not state.nodes:
        raise Trouble(f"nothing was started in {folder}")
    found = {}
    for kind in state.kinds():
        nodes = state.of(kind)
        down = [node.name for node in nodes if not node.alive()]
        said = f"down: {', '.join(down)}" if down else ENGINES[kind].set_problem(nodes)
        found[kind] = said
    return found
