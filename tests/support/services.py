"""Fixtures of real engines: `services`, one node of each, and `cluster_of(kind, nodes)` for what
happens when some of several nodes die.

Both go through scripts/services. Tests share the engines, so each takes names of its own (keyspace,
topics, keys). What runs already below build/ is used again; at the end of the session all is
stopped, unless FEEDCORE_KEEP_SERVICES=1; data and logs stay until the next start. With `-n` all
processes of the run share them, and the process that started those stops them. A node of
somebody else's is used where FEEDCORE_TEST_REDIS, _KAFKA or _CASSANDRA names its HOST:PORT. Where
an engine cannot be had its tests skip, and the run says so at its end; with
FEEDCORE_REQUIRE_SERVICES=1 they fail. Not for fakes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NoReturn

import pytest

from scripts.services_lib.state import Node, Unavailable, load

ROOT = Path(__file__).resolve().parent.parent.parent
SCRIPT = ROOT / "scripts" / "services"
BUILD = ROOT / "build"
KEEP = os.environ.get("FEEDCORE_KEEP_SERVICES") == "1"
REQUIRED = os.environ.get("FEEDCORE_REQUIRE_SERVICES") == "1"
MISSING = "services: not available: "
# The script's own bounds are shorter, and say more.
COMMAND_S = 900.0
GONE_S = 10.0
# Sessions of one checkout at a time that may have clusters of one shape.
CLUSTERS_MAX = 8


def command(folder: Path, *words: str) -> str:
    """Runs scripts/services; what it printed. Skips or fails the test when it cannot."""
    done = run(folder, *words)
    if done.returncode == Unavailable.code:
        missing(done.stderr.strip().removeprefix("services: "))
    if done.returncode != 0:
        pytest.fail(f"scripts/services {' '.join(words)}: {done.stderr}", pytrace=False)
    return done.stdout


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs scripts/services, whatever comes of it."""
    line = [sys.executable, str(SCRIPT), *words, "--dir", str(folder)]
    return subprocess.run(line, capture_output=True, text=True, timeout=COMMAND_S, check=False)


def missing(reason: str) -> NoReturn:
    if REQUIRED:
        pytest.fail(MISSING + reason, pytrace=False)
    pytest.skip(MISSING + reason)


class Engine:
    """One kind of engine in one folder: its nodes by name, like kafka-2, or by number from 1."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder = folder
        self.kind = kind

    @property
    def nodes(self) -> list[Node]:
        """As they are now; a node has name, host, ports, address, pid, data_dir and log."""
        state = load(self.folder)
        return state.of(self.kind) if state else []

    @property
    def addresses(self) -> list[str]:
        """host:port for clients."""
        return [node.address for node in self.nodes]

    @property
    def address(self) -> str:
        return self.addresses[0]

    def node(self, which: str | int) -> Node:
        name = which if isinstance(which, str) else f"{self.kind}-{which}"
        return next(node for node in self.nodes if node.name == name)

    def pid(self, which: str | int) -> int:
        pid = self.node(which).pid
        assert pid is not None, f"{which} was stopped"
        return pid

    def kill(self, which: str | int) -> None:
        """SIGKILL; returns when the process is gone."""
        node = self.node(which)
        node.signal(signal.SIGKILL)
        until = time.monotonic() + GONE_S
        while node.alive():
            assert time.monotonic() < until, f"{node.name} is alive {GONE_S} s after SIGKILL"
            time.sleep(0.02)

    def pause(self, which: str | int) -> None:
        """SIGSTOP: its connections stay open and nothing answers."""
        self.node(which).signal(signal.SIGSTOP)

    def resume(self, which: str | int) -> None:
        self.node(which).signal(signal.SIGCONT)

    def stop(self, which: str | int) -> None:
        """SIGTERM, as an operator would; returns when the process is gone."""
        command(self.folder, "stop-node", self.node(which).name)

    def restart(self, which: str | int) -> None:
        """Up again with its data, ended first if it runs; returns when it serves."""
        self.resume(which)
        if self.node(which).alive():
            self.stop(which)
        command(self.folder, "start-node", self.node(which).name)

    def heal(self) -> None:
        """Every node runs, and what is written through each of them is read."""
        for node in self.nodes:
            node.signal(signal.SIGCONT)
        command(self.folder, "start", "--only", self.kind)


class Services:
    """Single nodes, each started when a test first asks for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._started: dict[str, Engine] = {}

    @property
    def redis(self) -> Engine:
        return self.engine("redis")

    @property
    def kafka(self) -> Engine:
        return self.engine("kafka")

    @property
    def cassandra(self) -> Engine:
        return self.engine("cassandra")

    def address(self, kind: str) -> str:
        """HOST:PORT: what the environment names, else our own engine's."""
        return os.environ.get(f"FEEDCORE_TEST_{kind.upper()}") or self.engine(kind).address

    def engine(self, kind: str) -> Engine:
        if kind not in self._started:
            self._started[kind] = bring_up(self.folder, kind, 1)
        return self._started[kind]


def bring_up(folder: Path, kind: str, nodes: int, *, fresh: bool = False) -> Engine:
    """What runs is used as it is; what does not starts empty, on ports that are free."""
    engine = Engine(folder, kind)
    with (folder / "starting").open("w") as lock:
        # Else a second session would see what the first is still starting as down, and wipe it.
        fcntl.flock(lock, fcntl.LOCK_EX)
        state = load(folder)
        if state is not None and not any(node.alive() for node in state.nodes.values()):
            command(folder, "stop", "--wipe")
        there = engine.nodes
        for node in there:
            node.signal(signal.SIGCONT)
        fresh = fresh or not all(node.alive() for node in there)
        wipe = ["--wipe"] if fresh else []
        words = ["--only", kind, f"--{kind}", str(nodes), "--base-port", "auto", *wipe]
        command(folder, "start", *words)
    return engine


class Clusters:
    """Clusters of one test session, kept from test to test and healed before each use."""

    def __init__(self, build: Path) -> None:
        self.build = build
        self._held: dict[tuple[str, int], tuple[Path, IO[str]]] = {}

    def __call__(self, kind: str, nodes: int = 3, *, fresh: bool = False) -> Engine:
        """All nodes up and empty the first time; healed, with earlier tests' data, after that."""
        if (kind, nodes) not in self._held:
            self._held[kind, nodes] = self._hold(f"{kind}-{nodes}")
            return bring_up(self._held[kind, nodes][0], kind, nodes, fresh=True)
        folder, _ = self._held[kind, nodes]
        if fresh:
            return bring_up(folder, kind, nodes, fresh=True)
        engine = Engine(folder, kind)
        engine.heal()
        return engine

    def close(self) -> None:
        for folder, lock in self._held.values():
            if not KEEP:
                end(folder)
            lock.close()
        self._held.clear()

    def _hold(self, shape: str) -> tuple[Path, IO[str]]:
        """A folder that no other session works in."""
        for number in range(CLUSTERS_MAX):
            folder = self.build / f"{shape}-{number}"
            folder.mkdir(parents=True, exist_ok=True)
            lock = (folder / "session").open("w")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.close()
                continue
            return folder, lock
        pytest.fail(f"{CLUSTERS_MAX} sessions have a {shape} below {self.build}", pytrace=False)


def end(folder: Path) -> None:
    """Stops what runs; trouble with that is told, but fails no test that has passed."""
    done = run(folder, "stop", "--at-once")
    if done.returncode != 0:
        print(f"scripts/services stop --dir {folder}: {done.stderr}", file=sys.stderr)


@contextlib.contextmanager
def shared_services() -> Iterator[Services]:
    """Engines of one node each. Only the last session of this checkout to leave stops them."""
    folder = BUILD / "services-of-tests"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "sessions").open("w") as users:
        fcntl.flock(users, fcntl.LOCK_SH)
        yield Services(folder)
        if KEEP or load(folder) is None:
            return
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            end(folder)


_whole_run = contextlib.ExitStack()


def pytest_sessionstart(session: pytest.Session) -> None:
    """With `-n`: else a worker that is done would stop what another is about to use."""
    if getattr(session.config.option, "numprocesses", None):
        _whole_run.enter_context(shared_services())


def pytest_sessionfinish() -> None:
    _whole_run.close()


@pytest.fixture(scope="session")
def services() -> Iterator[Services]:
    """One node of each engine: `services.redis.address`, `.kafka`, `.cassandra`."""
    with shared_services() as shared:
        yield shared


@pytest.fixture(scope="session")
def redis_address(services: Services) -> str:
    """HOST:PORT of a Redis that others may use at the same time, with other keys."""
    return services.address("redis")


@pytest.fixture(scope="session")
def kafka_address(services: Services) -> str:
    """HOST:PORT of a broker that makes no topics by itself."""
    return services.address("kafka")


@pytest.fixture(scope="session")
def cassandra_address(services: Services) -> str:
    """HOST:PORT of a node of datacenter1."""
    return services.address("cassandra")


@pytest.fixture(scope="session")
def cluster_of() -> Iterator[Clusters]:
    """`cluster_of("kafka", 3)`: an Engine with kill, pause, resume, stop and restart."""
    clusters = Clusters(BUILD / "clusters-of-tests")
    yield clusters
    clusters.close()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What was skipped for want of an engine must not be read as proven."""
    reasons: dict[str, int] = {}
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
        if MISSING in reason:
            why = reason.split(MISSING, 1)[1].splitlines()[0]
            reasons[why] = reasons.get(why, 0) + 1
    for why, count in reasons.items():
        terminalreporter.write_line(f"{MISSING}{why}; {count} tests skipped", yellow=True)
