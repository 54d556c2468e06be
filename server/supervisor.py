"""The supervisor: one process that starts the workers and the fan-out process and keeps them alive.

State of a child (one task each, `_keep`):

    starting  -> serving    it said "ready" on its status pipe
    starting  -> failed     it ended first: at the very start we give up, later we wait and retry
    serving   -> waiting    it died: back-off, doubling, forgiven after RESTART_FORGIVE_S of life
    waiting   -> starting   the back-off is over
    any       -> ended      the supervisor stops

Invariants: children are started with exec, never by fork alone; each holds a pipe from here as
stdin, so that it ends when this process does, even by SIGKILL; the ready line is printed once, when
every child serves. The first SIGTERM or SIGINT drains, the second ends everything at once. Not for
serving calls: it serves metrics only.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import sys
from pathlib import Path
from typing import NamedTuple

from prometheus_client import start_http_server

from feedcore.clock import SystemClock
from feedcore.config import Settings, split_address
from feedcore.observe import metrics
from feedcore_server import limits

API, FANOUT = "api", "fanout"
MODULES = {API: "feedcore_server.worker", FANOUT: "feedcore_server.fanout_main"}
METRICS_PREFIX = "metrics-"  # directory below data_dir, named by the supervisor's pid


class Spec(NamedTuple):
    """Which child."""

    role: str
    index: int


class CannotStart(Exception):
    """A child ended before it was ready, at the very start: settings or store are at fault."""


def run(settings: Settings) -> int:
    """Serves until SIGTERM or SIGINT; the exit code: 0 after a drain, 1 if it could not start."""
    return asyncio.run(Supervisor(settings).run())


class Supervisor:
    """One `feedcore serve`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._clock = SystemClock()
        self._host, self._port = split_address(settings.server.listen)
        self._children: dict[Spec, asyncio.subprocess.Process] = {}
        self._serving: set[Spec] = set()
        self._store_ready = asyncio.Event()
        self._all_serving = asyncio.Event()
        self._stop = asyncio.Event()
        self._signals = 0
        data_dir = settings.store.data_dir
        self._metrics_dir = data_dir / f"{METRICS_PREFIX}{os.getpid()}"
        registry = metrics.CollectorRegistry()
        self._registry, self._restarts = registry, metrics.restarts(registry)

    async def run(self) -> int:
        """The whole life of the server."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        specs = [Spec(FANOUT, 0), *(Spec(API, i) for i in range(self._settings.server.workers))]
        try:
            with await self._reserve_port():
                self._make_metrics_dir()
                return await self._supervise(specs)
        except (CannotStart, OSError) as error:
            print(f"feedcore cannot start: {error}", file=sys.stderr, flush=True)
            return 1
        finally:
            self._kill_all()
            shutil.rmtree(self._metrics_dir, ignore_errors=True)

    async def _supervise(self, specs: list[Spec]) -> int:
        metrics_line = self._serve_metrics()
        # The fan-out process first and alone: it may have to make or migrate the store.
        keepers = [asyncio.create_task(self._keep(spec), name=str(spec)) for spec in specs]
        announcer = asyncio.create_task(self._announce(specs, metrics_line))
        stopper = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({*keepers, stopper}, return_when=asyncio.FIRST_COMPLETED)
            for keeper in keepers:
                if keeper.done():
                    # Raises CannotStart: nothing else ends a keeper before a signal.
                    keeper.result()
            await self._drain()
            return 0
        finally:
            self._stop.set()
            self._store_ready.set()
            self._kill_all()
            announcer.cancel()
            await asyncio.gather(announcer, stopper, *keepers, return_exceptions=True)

    async def _announce(self, specs: list[Spec], metrics_line: str) -> None:
        """Prints the ready line once every child serves."""
        await self._all_serving.wait()
        if metrics_line:
            print(metrics_line, flush=True)
        workers = len(specs) - 1
        address = _address(self._host, self._port)
        print(f"feedcore ready on {address} ({workers} workers, pid {os.getpid()})", flush=True)

    async def _keep(self, spec: Spec) -> None:
        """Starts one child again and again until the supervisor stops."""
        backoff_s = limits.RESTART_BACKOFF_MIN_S
        if spec.role == API:
            await self._store_ready.wait()
        while not self._stop.is_set():
            began_s = self._clock.monotonic()
            process, error = await self._start(spec)
            if error and not self._all_serving.is_set():
                raise CannotStart(error)
            code = await process.wait()
            self._serving.discard(spec)
            self._children.pop(spec, None)
            metrics.forget_process(process.pid, str(self._metrics_dir))
            if self._stop.is_set():
                return
            if self._clock.monotonic() - began_s >= limits.RESTART_FORGIVE_S:
                backoff_s = limits.RESTART_BACKOFF_MIN_S
            why = f"{spec.role} process {spec.index} (pid {process.pid}) ended with {code}"
            line = {"event": "restarting", "level": "warning", "detail": why, "wait_s": backoff_s}
            print(json.dumps(line), file=sys.stderr, flush=True)
            self._restarts.labels(spec.role).inc()
            try:
                await asyncio.wait_for(self._stop.wait(), backoff_s)
            except TimeoutError:
                backoff_s = min(2 * backoff_s, limits.RESTART_BACKOFF_MAX_S)

    async def _start(self, spec: Spec) -> tuple[asyncio.subprocess.Process, str]:
        """Starts a child and waits until it serves; returns it with what went wrong, if any."""
        read_fd, write_fd = os.pipe()
        arguments = ["-m", MODULES[spec.role], "--index", str(spec.index)]
        arguments += ["--port", str(self._port), "--status-fd", str(write_fd)]
        directory = str(self._metrics_dir.absolute())
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *arguments,
                stdin=asyncio.subprocess.PIPE,
                pass_fds=(write_fd,),
                env={**os.environ, metrics.MULTIPROCESS_DIR_VARIABLE: directory},
            )
        finally:
            os.close(write_fd)
        self._children[spec] = process
        assert process.stdin is not None
        process.stdin.write(self._settings.model_dump_json().encode() + b"\n")
        try:
            answer = await asyncio.wait_for(_read_line(read_fd), limits.START_TIMEOUT_S)
        except TimeoutError:
            process.kill()
            return (
                process,
                f"{spec.role} process {spec.index}: no answer in {limits.START_TIMEOUT_S:g} s",
            )
        finally:
            os.close(read_fd)
        if "ready" not in answer:
            fault = (
                answer.get("error") or f"{spec.role} process {spec.index} ended; its log says why"
            )
            return process, str(fault)
        self._serving.add(spec)
        self._store_ready.set()
        if len(self._serving) == self._settings.server.workers + 1:
            self._all_serving.set()
        return process, ""

    def _on_signal(self) -> None:
        self._signals += 1
        self._stop.set()
        if self._signals > 1:
            self._kill_all()

    async def _drain(self) -> None:
        """API workers first, so that what they still write is fanned out or at least queued; then
        the fan-out."""
        grace_s = self._settings.server.drain_grace_s + limits.LAME_DUCK_S + limits.DRAIN_EXTRA_S
        for role, patience_s in ((API, grace_s), (FANOUT, limits.DRAIN_EXTRA_S)):
            ending = [child for spec, child in self._children.items() if spec.role == role]
            for child in ending:
                _signal(child, signal.SIGTERM)
            if ending:
                waits = [asyncio.create_task(child.wait()) for child in ending]
                await asyncio.wait(waits, timeout=patience_s)
            for child in ending:
                _signal(child, signal.SIGKILL)

    def _kill_all(self) -> None:
        for child in self._children.values():
            _signal(child, signal.SIGKILL)

    async def _reserve_port(self) -> socket.socket:
        """Holds the port without listening, so that it stays ours while workers come and go.

        Raises OSError if another server listens on it: SO_REUSEPORT alone would let two servers
        share a port.
        """
        found = socket.getaddrinfo(
            self._host, self._port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, _, _, _, address = found[0]
        deadline_s = self._clock.monotonic() + limits.PORT_WAIT_S
        while True:
            try:
                with socket.socket(family, socket.SOCK_STREAM) as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(address)
                break
            except OSError as error:
                if self._clock.monotonic() > deadline_s:
                    where = _address(self._host, self._port)
                    raise OSError(f"server.listen {where}: {error.strerror}") from error
                await asyncio.sleep(limits.PORT_RETRY_S)
        holder = socket.socket(family, socket.SOCK_STREAM)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(address)
        self._port = holder.getsockname()[1]
        return holder

    def _make_metrics_dir(self) -> None:
        """A fresh directory for this run; those of supervisors that were killed are removed."""
        data_dir = self._settings.store.data_dir
        data_dir.mkdir(parents=True, exist_ok=True)
        for left in data_dir.glob(f"{METRICS_PREFIX}*"):
            if not _alive(left):
                shutil.rmtree(left, ignore_errors=True)
        self._metrics_dir.mkdir()
        metrics.add_shared(self._registry, str(self._metrics_dir))

    def _serve_metrics(self) -> str:
        """Serves Prometheus metrics if an address is set; says where. Raises OSError."""
        if not self._settings.server.metrics:
            return ""
        host, port = split_address(self._settings.server.metrics)
        try:
            server, _ = start_http_server(port, host, registry=self._registry)
        except OSError as error:
            where = self._settings.server.metrics
            raise OSError(f"server.metrics {where}: {error.strerror}") from error
        return f"feedcore metrics on http://{_address(host, server.server_port)}/metrics"


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _alive(metrics_dir: Path) -> bool:
    """Whether the supervisor that made the directory still runs."""
    pid = metrics_dir.name.removeprefix(METRICS_PREFIX)
    return pid.isdigit() and int(pid) != os.getpid() and Path(f"/proc/{pid}").exists()


def _signal(child: asyncio.subprocess.Process, number: signal.Signals) -> None:
    """Signals a child unless it has ended already."""
    if child.returncode is None:
        try:
            child.send_signal(number)
        except ProcessLookupError:
            return


async def _read_line(fd: int) -> dict[str, object]:
    """One JSON line from a pipe; empty if the other side closed it without a word."""
    reader = asyncio.StreamReader()
    with os.fdopen(os.dup(fd), "rb", buffering=0) as pipe:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), pipe
        )
        try:
            line = await reader.readline()
        finally:
            transport.close()
    return json.loads(line) if line else {}
