"""The supervisor: one process that starts the workers and the fan-out process and keeps them alive.

State of a slot (one task each, `_keep`); a slot is a role and a number, and has one child at once:

    starting  -> serving    the child said "ready" on its status pipe
    starting  -> failed     it ended first: at the very start we give up, later we wait and retry
    serving   -> waiting    it died: back-off, doubling, forgiven after RESTART_FORGIVE_S of life
    waiting   -> starting   the back-off is over
    serving   -> serving    a rolling restart put another child in its place
    any       -> ended      the supervisor stops

SIGHUP is a rolling restart, one slot after the other: the new worker is ready before the old one
gets no more connections and drains, so that no call fails. It has a node number of its own (the
spare one), since both give out ids for a while. SIGTERM or SIGINT drains; the second ends
everything at once.

Invariants: the ready line is printed once, when every child serves; connections are accepted here
and handed over (acceptor) unless grpc.aio serves, which listens itself. Not for serving: not calls,
and not metrics, which a child of their own serves.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from feedcore.clock import SystemClock
from feedcore.config import Settings, fanout_node, split_address
from feedcore.errors import ConfigError
from feedcore.observe import logs, metrics
from feedcore_server import limits, metrics_http
from feedcore_server.processes.acceptor import Acceptor, Channel
from feedcore_server.processes.children import (
    API,
    FANOUT,
    METRICS,
    Child,
    Spec,
    Start,
    start_child,
)
from feedcore_server.processes.open_files import raise_limit
from feedcore_server.transports import NATIVE, choose

METRICS_PREFIX = "metrics-"  # directory below data_dir, named by the supervisor's pid


class CannotStart(Exception):
    """A child ended before it was ready, at the very start: settings or store are at fault."""


class Slot:
    """A place for one child; `swapped` is set when a rolling restart put another one there."""

    def __init__(self, spec: Spec, node: int) -> None:
        self.spec = spec
        self.node = node
        self.child: Child | None = None
        self.swapped = asyncio.Event()
        self.ending_on_purpose = False


def run(settings: Settings) -> int:
    """Serves until SIGTERM or SIGINT; the exit code: 0 after a drain, 1 if it could not start."""
    raise_limit()
    config = settings.logging
    logs.configure(config.level, config.format, role="supervisor", pid=os.getpid())
    try:
        choice = choose(settings.server.transport)
        if choice.name != NATIVE and settings.server.listen_unix is not None:
            raise ConfigError(
                f"server.listen_unix: only the native transport listens on it; {choice.warning}"
            )
    except ConfigError as error:
        print(f"feedcore cannot start: {error}", file=sys.stderr, flush=True)
        return 1
    if choice.warning:
        _log("transport", choice.warning)
    chosen = settings.server.model_copy(update={"transport": choice.name})
    return asyncio.run(Supervisor(settings.model_copy(update={"server": chosen})).run())


class Supervisor:
    """One `feedcore serve`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._clock = SystemClock()
        self._host, self._port = split_address(settings.server.listen)
        workers = settings.server.workers
        base, role = settings.ids.node_base, settings.server.role
        self._slots = [Slot(Spec(FANOUT, 0), fanout_node(settings))] if role != API else []
        if role != FANOUT:
            self._slots += [Slot(Spec(API, i), base + i) for i in range(workers)]
        if settings.server.metrics:
            self._slots.append(Slot(Spec(METRICS, 0), 0))
        self._spare_node = base + workers
        self._children: set[Child] = set()
        self._acceptor: Acceptor | None = None
        self._store_ready = asyncio.Event()
        if settings.store.profile != "embedded":
            self._store_ready.set()  # no process of this node makes it
        self._all_serving = asyncio.Event()
        self._stop = asyncio.Event()
        self._hangup = asyncio.Event()
        self._signals = 0
        data_dir = settings.store.data_dir
        self._metrics_dir = data_dir / f"{METRICS_PREFIX}{os.getpid()}"
        self._metrics_listener: socket.socket | None = None

    @property
    def _serves(self) -> bool:
        """Whether calls are answered here."""
        return self._settings.server.role != FANOUT

    async def run(self) -> int:
        """The whole life of the server."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        loop.add_signal_handler(signal.SIGHUP, self._hangup.set)
        holder: socket.socket | None = None
        try:
            holder = await self._listen() if self._serves else None
            self._make_metrics_dir()
            return await self._supervise()
        except (CannotStart, OSError) as error:
            print(f"feedcore cannot start: {error}", file=sys.stderr, flush=True)
            return 1
        finally:
            self._kill_all()
            if holder is not None:
                holder.close()
            if self._acceptor is not None:
                self._acceptor.close()
            if self._metrics_listener is not None:
                self._metrics_listener.close()
            shutil.rmtree(self._metrics_dir, ignore_errors=True)

    async def _supervise(self) -> int:
        metrics_line = self._listen_for_metrics()
        # Embedded: the fan-out process first and alone; it may have to make or migrate the store.
        keepers = [
            asyncio.create_task(self._keep(slot), name=str(slot.spec)) for slot in self._slots
        ]
        announcer = asyncio.create_task(self._announce(metrics_line))
        roller = asyncio.create_task(self._roll_when_asked(), name="rolling restarts")
        stopper = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({*keepers, stopper, roller}, return_when=asyncio.FIRST_COMPLETED)
            for task in (*keepers, roller):
                if task.done():
                    # Raises CannotStart: nothing else ends a keeper before a signal.
                    task.result()
            roller.cancel()
            await self._drain()
            return 0
        finally:
            self._stop.set()
            self._store_ready.set()
            self._kill_all()
            for task in (announcer, roller):
                task.cancel()
            await asyncio.gather(announcer, stopper, roller, *keepers, return_exceptions=True)

    async def _announce(self, metrics_line: str) -> None:
        """Prints the ready line once every child serves."""
        await self._all_serving.wait()
        if metrics_line:
            print(metrics_line, flush=True)
        if self._settings.server.listen_unix is not None and self._serves:
            print(f"feedcore ready on unix:{self._settings.server.listen_unix}", flush=True)
        server = self._settings.server
        if server.role == FANOUT:
            print(f"feedcore ready, fan-out only (pid {os.getpid()})", flush=True)
            return
        workers = sum(slot.spec.role == API for slot in self._slots)
        address = _address(self._host, self._port)
        how = f"{workers} workers, pid {os.getpid()}, {server.transport} transport"
        print(f"feedcore ready on {address} ({how})", flush=True)

    # --- children -------------------------------------------------------------------------------
    async def _keep(self, slot: Slot) -> None:
        """Fills one slot again and again until the supervisor stops."""
        backoff_s = limits.RESTART_BACKOFF_MIN_S
        restarted = False
        if slot.spec.role == API:
            await self._store_ready.wait()
        while not self._stop.is_set():
            began_s = self._clock.monotonic()
            child = await self._start(slot.spec, slot.node, restarted)
            if child.error and not self._all_serving.is_set():
                raise CannotStart(child.error)
            if not child.error:
                self._put(slot, child)
            child, code = await self._until_dead(slot, child)
            self._bury(child)
            if slot.child is child:
                slot.child = None
            if self._stop.is_set():
                return
            restarted = not slot.ending_on_purpose
            if slot.ending_on_purpose:
                slot.ending_on_purpose = False
                continue
            if self._clock.monotonic() - began_s >= limits.RESTART_FORGIVE_S:
                backoff_s = limits.RESTART_BACKOFF_MIN_S
            _log("restarting", f"{child.name} ended with {code}", wait_s=backoff_s)
            try:
                await asyncio.wait_for(self._stop.wait(), backoff_s)
            except TimeoutError:
                backoff_s = min(2 * backoff_s, limits.RESTART_BACKOFF_MAX_S)

    async def _start(self, spec: Spec, node: int, restarted: bool = False) -> Child:
        channel = Channel() if spec.role == API and self._acceptor is not None else None
        directory = str(self._metrics_dir.absolute())
        start = Start(
            node, self._port, channel, self._metrics_listener, directory, restarted=restarted
        )
        child = await start_child(spec, self._settings, start)
        if channel is not None:
            channel.theirs.close()  # the child has its own copy, and its end must be noticed
        self._children.add(child)
        if self._stop.is_set():  # too late to be drained with the others
            child.signal(signal.SIGKILL)
        await child.until_ready(_log_waiting)
        return child

    def _put(self, slot: Slot, child: Child) -> None:
        """The child serves: it is the slot's, and gets connections."""
        slot.child, slot.node = child, child.node
        if child.channel is not None and self._acceptor is not None:
            self._acceptor.add(child.channel)
        if child.spec.role != METRICS:
            self._store_ready.set()
        if all(slot.child is not None for slot in self._slots):
            self._all_serving.set()

    async def _until_dead(self, slot: Slot, child: Child) -> tuple[Child, int]:
        """Waits until the slot's child ends, whichever it is by then: (child, exit code)."""
        while True:
            slot.swapped.clear()
            death = asyncio.create_task(child.process.wait())
            swap = asyncio.create_task(slot.swapped.wait())
            await asyncio.wait({death, swap}, return_when=asyncio.FIRST_COMPLETED)
            swap.cancel()
            if slot.child is None or slot.child is child:
                return child, await death
            death.cancel()
            child = slot.child

    def _bury(self, child: Child) -> None:
        """A process has ended: nothing of it stays."""
        self._children.discard(child)
        self._leave(child)
        metrics.forget_process(child.process.pid, str(self._metrics_dir))

    def _leave(self, child: Child) -> None:
        """The child gets no more connections."""
        if child.channel is not None and self._acceptor is not None:
            self._acceptor.remove(child.channel)
            child.channel.close()
            child.channel = None

    # --- rolling restart ------------------------------------------------------------------------
    async def _roll_when_asked(self) -> None:
        """One rolling restart for each SIGHUP; those that come meanwhile are one more."""
        while True:
            await self._hangup.wait()
            self._hangup.clear()
            await self._all_serving.wait()
            _log("rolling restart", "begins")
            began_s = self._clock.monotonic()
            done = all([await self._replace(slot) for slot in self._slots if slot.child])
            took = f"{self._clock.monotonic() - began_s:.1f} s"
            _log("rolling restart", f"{'done' if done else 'stopped'} after {took}")

    async def _replace(self, slot: Slot) -> bool:
        """Puts a new child into a slot; False, with the old one still serving, if it cannot
        serve."""
        old = slot.child
        assert old is not None
        if slot.spec.role != API:
            # One a data directory: it is stopped first. Posts are visible without it.
            slot.ending_on_purpose = True
            slot.child = None
            await old.end_within(limits.DRAIN_EXTRA_S)
            return True
        new = await self._start(slot.spec, self._spare_node)
        if new.error:
            _log("rolling restart", f"{new.error}; the old worker serves on", level="error")
            await new.end_within(0)
            self._bury(new)
            return False
        if slot.child is not old:  # it died meanwhile, and its keeper has another on the way
            await new.end_within(0)
            self._bury(new)
            return True
        self._spare_node = old.node
        self._put(slot, new)
        slot.swapped.set()
        self._leave(old)
        await old.end_within(self._drain_patience_s())
        self._bury(old)
        return True

    # --- the end --------------------------------------------------------------------------------
    def _on_signal(self) -> None:
        self._signals += 1
        self._stop.set()
        if self._signals > 1:
            self._kill_all()

    def _drain_patience_s(self) -> float:
        return self._settings.server.drain_grace_s + limits.LAME_DUCK_S + limits.DRAIN_EXTRA_S

    async def _drain(self) -> None:
        """API workers first, so that what they still write is fanned out or at least queued; then
        the fan-out."""
        if self._acceptor is not None:
            self._acceptor.close()
        patience = {API: self._drain_patience_s()}
        for role in (API, FANOUT, METRICS):
            patience_s = patience.get(role, limits.DRAIN_EXTRA_S)
            async with asyncio.TaskGroup() as group:
                for child in [child for child in self._children if child.spec.role == role]:
                    group.create_task(child.end_within(patience_s))

    def _kill_all(self) -> None:
        for child in self._children:
            child.signal(signal.SIGKILL)

    # --- where it listens -----------------------------------------------------------------------
    async def _listen(self) -> socket.socket | None:
        """Native: listens, here. grpc.aio: holds the port without listening, so that it stays ours
        while workers come and go. Raises OSError."""
        if self._settings.server.transport != NATIVE:
            return await self._hold_port()
        self._acceptor = Acceptor(asyncio.get_running_loop())
        await self._while_in_use(self._listen_tcp)
        if self._settings.server.listen_unix is not None:
            self._acceptor.listen_unix(self._settings.server.listen_unix)
        return None

    def _listen_tcp(self, found: Any) -> None:
        assert self._acceptor is not None
        self._port = self._acceptor.listen_tcp(found)

    async def _hold_port(self) -> socket.socket:
        """SO_REUSEPORT alone would let two servers share a port: a plain bind is tried first."""

        def probe(found: Any) -> None:
            with socket.socket(found[0], socket.SOCK_STREAM) as plain:
                plain.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                plain.bind(found[4])

        found = await self._while_in_use(probe)
        holder = socket.socket(found[0], socket.SOCK_STREAM)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(found[4])
        self._port = holder.getsockname()[1]
        return holder

    async def _while_in_use(self, take: Any) -> Any:
        """Calls `take(address)` until it succeeds; for PORT_WAIT_S, since workers of a supervisor
        that was killed release the port within moments. Raises OSError."""
        addresses = socket.getaddrinfo(
            self._host, self._port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        deadline_s = self._clock.monotonic() + limits.PORT_WAIT_S
        while True:
            try:
                take(addresses[0])
                return addresses[0]
            except OSError as error:
                if self._clock.monotonic() > deadline_s:
                    where = _address(self._host, self._port)
                    raise OSError(f"server.listen {where}: {error.strerror}") from error
                await asyncio.sleep(limits.PORT_RETRY_S)

    # --- metrics --------------------------------------------------------------------------------
    def _make_metrics_dir(self) -> None:
        """A fresh directory for this run; those of supervisors that were killed are removed."""
        data_dir = self._settings.store.data_dir
        data_dir.mkdir(parents=True, exist_ok=True)
        for left in data_dir.glob(f"{METRICS_PREFIX}*"):
            if not _alive(left):
                shutil.rmtree(left, ignore_errors=True)
        self._metrics_dir.mkdir()

    def _listen_for_metrics(self) -> str:
        """Listens for scrapers if an address is set; says where. Raises OSError."""
        if not self._settings.server.metrics:
            return ""
        host, port = split_address(self._settings.server.metrics)
        try:
            self._metrics_listener = metrics_http.listen(host, port)
        except OSError as error:
            where = self._settings.server.metrics
            raise OSError(f"server.metrics {where}: {error.strerror}") from error
        port = self._metrics_listener.getsockname()[1]
        return f"feedcore metrics on http://{_address(host, port)}/metrics"


def _log_waiting(name: str, what: str) -> None:
    _log("waiting", f"{name} waits for {what}")


def _log(event: str, detail: str, level: str = "warning", **fields: Any) -> None:
    """One line, as the children's are."""
    getattr(logs.get("supervisor"), level)(event, detail=detail, **fields)


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _alive(metrics_dir: Path) -> bool:
    """Whether the supervisor that made the directory still runs."""
    pid = metrics_dir.name.removeprefix(METRICS_PREFIX)
    return pid.isdigit() and int(pid) != os.getpid() and Path(f"/proc/{pid}").exists()
