"""Starting and ending one node's process, and waiting for what is asked of it, bounded.

Each node is the leader of its own session and process group: it outlives the process that started
it, and a signal reaches all of it. Not for knowing engines.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from .state import Node, Trouble, process_started

# Cassandra flushes nothing on TERM, Kafka's controlled shutdown is bounded by its peers.
TERM_S = 20.0
KILL_S = 10.0
POLL_S = 0.1
LOG_LINES = 25
# A log beyond this is moved aside at the next start; one older one is kept.
LOG_BYTES_MAX = 16 << 20


def spawn(node: Node) -> None:
    log = Path(node.log)
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists() and log.stat().st_size > LOG_BYTES_MAX:
        log.replace(log.with_suffix(".1.log"))
    temporary = node.folder / "tmp"
    temporary.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        process = subprocess.Popen(
            node.command,
            cwd=node.folder,
            env=os.environ | {"TMPDIR": str(temporary)},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    node.pid = process.pid
    node.pid_started = process_started(process.pid)


def end(nodes: Iterable[Node], *, at_once: bool = False) -> None:
    """TERM to all, then KILL to those that remain; KILL alone when it shall be at once."""
    running = [node for node in nodes if node.alive()]
    politely = [] if at_once else [(signal.SIGTERM, TERM_S)]
    for number, bound_s in [*politely, (signal.SIGKILL, KILL_S)]:
        for node in running:
            node.signal(number)
            # One that a test has stopped would not see the TERM.
            node.signal(signal.SIGCONT)
        until = time.monotonic() + bound_s
        while time.monotonic() < until and any(node.alive() for node in running):
            reap()
            time.sleep(POLL_S)
        running = [node for node in running if node.alive()]
    if running:
        raise Trouble(f"still running after KILL: {', '.join(node.name for node in running)}")
    for node in nodes:
        node.pid = node.pid_started = None


def reap() -> None:
    """Collects children that have ended, so that they do not count as running."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


def wait_until(nodes: list[Node], problem: Callable[[], str | None], bound_s: float) -> None:
    """Until there is no problem; a node that ends, or the bound, is the end of waiting."""
    until = time.monotonic() + bound_s
    while True:
        reap()
        dead = [node for node in nodes if not node.alive()]
        if dead:
            raise Trouble("\n".join(f"{node.name} ended\n{log_tail(node)}" for node in dead))
        said = problem()
        if said is None:
            return
        if time.monotonic() > until:
            tails = "\n".join(log_tail(node) for node in nodes)
            raise Trouble(f"not ready within {bound_s:.0f} s: {said}\n{tails}")
        time.sleep(POLL_S)


def log_tail(node: Node) -> str:
    try:
        lines = Path(node.log).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        return f"--- {node.log}: {error}"
    return "\n".join([f"--- the last lines of {node.log}", *lines[-LOG_LINES:]])
