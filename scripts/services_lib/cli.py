"""The commands of scripts/services: arguments in, lines and an exit code out.

0: done; 1: something is down or failed; 2: wrong arguments; 3: an engine cannot be had here.
Not for what the commands do: actions.py.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from . import actions, jars, ports
from .state import KINDS, State, Trouble, load, locked, state_path

ROOT = Path(__file__).resolve().parent.parent.parent
COUNTS = (1, 3)


def main(arguments: list[str]) -> int:
    options = parser().parse_args(arguments)
    options.folder = options.dir.resolve()
    try:
        return int(options.run(options))
    except Trouble as trouble:
        print(f"services: {trouble}", file=sys.stderr)
        return trouble.code


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="scripts/services",
        description="Redis, Kafka and Cassandra as plain processes on loopback.",
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    for name, run, words in (
        ("start", run_start, "start what is named, return when it answers"),
        ("fetch", run_fetch, "look for what engines need and download their jars"),
        ("stop", run_stop, "end what runs; data stay"),
        ("start-node", run_start_node, "start one node again"),
        ("stop-node", run_stop_node, "end one node"),
        ("status", run_status, "a table; exit code 1 when a node is down"),
        ("check", run_check, "write and read through each engine; exit code 1 when one cannot"),
        ("logs", run_logs, "where the logs are"),
        ("env", run_env, "addresses, KEY=value a line"),
    ):
        command = commands.add_parser(name, help=words, description=words)
        command.set_defaults(run=run)
        command.add_argument("--dir", type=Path, default=ROOT / "build" / "services")
        if name in ("start", "fetch", "stop"):
            command.add_argument("--only", metavar="KIND,...", help=f"of {', '.join(KINDS)}")
        if name in ("start", "fetch"):
            command.add_argument("--cache", type=Path, default=jars.CACHE, help="where jars are")
        if name in ("start", "stop"):
            command.add_argument("--wipe", action="store_true", help="delete data")
        if name == "stop":
            command.add_argument("--at-once", action="store_true", help="KILL, not TERM")
        if name.endswith("-node"):
            command.add_argument("name", help="as status shows it, like kafka-2")
        if name == "start":
            start_options(command)
    return top


def start_options(command: argparse.ArgumentParser) -> None:
    for kind in KINDS:
        command.add_argument(f"--{kind}", type=int, choices=COUNTS, help="nodes")
    command.add_argument(
        "--base-port",
        metavar="N",
        help=f"first of {ports.SPAN} ports, or `auto` (default {ports.BASE_PORT})",
    )


def kinds_of(options: argparse.Namespace) -> list[str]:
    if options.only is None:
        return list(KINDS)
    kinds = [kind for kind in options.only.split(",") if kind]
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise Trouble(f"--only {options.only}: one or more of {', '.join(KINDS)}")
    return kinds


def base_port_of(options: argparse.Namespace) -> int | None:
    if options.base_port in (None, "auto"):
        return None
    if not options.base_port.isdigit() or not 1024 <= int(options.base_port) <= 65535 - ports.SPAN:
        raise Trouble(f"--base-port {options.base_port}: 1024 to {65535 - ports.SPAN}, or auto")
    return int(options.base_port)


def run_start(options: argparse.Namespace) -> int:
    began = time.monotonic()
    wanted = actions.Wanted(
        counts={kind: getattr(options, kind) for kind in kinds_of(options)},
        base_port=base_port_of(options),
        free_ports=options.base_port == "auto",
        wipe=options.wipe,
        cache=options.cache.resolve(),
    )
    with locked(options.folder / "lock"):
        state = actions.start(options.folder, wanted)
    for node in state.nodes.values():
        print(f"{node.name:12} {node.address}")
    print(f"ready after {time.monotonic() - began:.1f} s")
    return 0


def run_fetch(options: argparse.Namespace) -> int:
    kinds = kinds_of(options)
    actions.fetch(options.folder, kinds, options.cache.resolve())
    print(f"all there for: {', '.join(kinds)}")
    return 0


def run_stop(options: argparse.Namespace) -> int:
    with locked(options.folder / "lock"):
        kinds = kinds_of(options)
        nodes = actions.stop(options.folder, kinds, wiping=options.wipe, at_once=options.at_once)
    print(f"stopped{' and wiped' if options.wipe else ''}: {len(nodes)} nodes")
    return 0


def run_start_node(options: argparse.Namespace) -> int:
    with locked(options.folder / "lock"):
        node = actions.start_node(options.folder, options.name)
    print(f"{node.name} {node.address} pid {node.pid}")
    return 0


def run_stop_node(options: argparse.Namespace) -> int:
    with locked(options.folder / "lock"):
        node = actions.stop_node(options.folder, options.name)
    print(f"{node.name} stopped")
    return 0


def state_of(options: argparse.Namespace) -> State:
    state = load(options.folder)
    if state is None or not state.nodes:
        raise Trouble(f"nothing was started in {options.folder}")
    return state


def run_status(options: argparse.Namespace) -> int:
    state = state_of(options)
    print(f"{'node':12} {'address':18} {'state':6} {'pid':>8} {'MB':>6}")
    down = False
    for node in state.nodes.values():
        alive = node.alive()
        down = down or not alive
        words = ("up", node.pid, resident_mb(node.pid)) if alive else ("down", "-", "-")
        print(f"{node.name:12} {node.address:18} {words[0]:6} {words[1]:>8} {words[2]:>6}")
    return int(down)


def resident_mb(pid: int | None) -> int:
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    lines = [line for line in text.splitlines() if line.startswith("VmRSS:")]
    return int(lines[0].split()[1]) // 1024 if lines else 0


def run_check(options: argparse.Namespace) -> int:
    found = actions.check(options.folder)
    for kind, problem in found.items():
        print(f"{kind:10} {'ok' if problem is None else problem}")
    return int(any(problem is not None for problem in found.values()))


def run_logs(options: argparse.Namespace) -> int:
    for node in state_of(options).nodes.values():
        print(f"{node.name:12} {node.log}")
    return 0


def run_env(options: argparse.Namespace) -> int:
    state = state_of(options)
    print(f"SERVICES_STATE={state_path(state.folder)}")
    for kind in state.kinds():
        addresses = ",".join(node.address for node in state.of(kind))
        print(f"FEEDCORE_TEST_{kind.upper()}={addresses}")
    return 0
