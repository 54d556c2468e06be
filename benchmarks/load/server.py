"""A real server for a scenario: `feedcore serve` on its core, watched, and ended by its pid.

Everything that belongs to the server (supervisor, workers, fan-out) runs on the server's core
unless `fanout_core` moves the fan-out process: then the report says so. Invariant: what is started
here is ended here.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import psutil

from feedcore_bench import methods
from feedcore_pb.v1 import publish_pb2

START_TIMEOUT_S = 60.0  # a store of a million users is opened and its feeds are mapped
END_TIMEOUT_S = 20.0  # drain, then the last merge
SAMPLE_EVERY_S = 0.25
SWITCH_S = 0.0002  # the sampling thread must not keep the driver waiting for the usual 5 ms
READY = re.compile(r"feedcore ready on 127\.0\.0\.1:(\d+)")
METRICS = re.compile(r"feedcore metrics on (http://\S+)")
SERVE = "import sys; from feedcore.cli import main; sys.exit(main(sys.argv[1:]))"


@contextlib.contextmanager
def pinned(core: int) -> Iterator[None]:
    """Processes started inside run on that core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def pin_process(pid: int, core: int) -> None:
    """Moves all threads of a process to a core."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(task.name), {core})


@dataclass
class Server:
    """A server that answers. `workers` and `fanout` are its processes."""

    process: subprocess.Popen[bytes]
    port: int
    metrics_url: str
    log: Path
    workers: list[psutil.Process]
    fanout: psutil.Process | None
    counted: dict[str, float] = field(default_factory=dict)  # metrics after the phase before
    beside: dict[str, psutil.Process] = field(default_factory=dict)  # what it needs: watched, too

    def metrics(self) -> dict[str, float]:
        """Samples by name and labels, as printed: `name{label="x"}`."""
        with urllib.request.urlopen(self.metrics_url, timeout=10) as reply:
            text = reply.read().decode()
        found = {}
        for line in text.splitlines():
            if line and not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                found[name] = float(value)
        return found

    def resident(self) -> tuple[int, int]:
        """(all resident bytes, anonymous ones) of the workers: mapped files are in the first."""
        total = anonymous = 0
        for worker in self.workers:
            total += worker.memory_info().rss
            for line in Path(f"/proc/{worker.pid}/status").read_text().splitlines():
                if line.startswith("RssAnon:"):
                    anonymous += int(line.split()[1]) * 1024
        return total, anonymous


def known_keys() -> set[str]:
    """Settings that this server has, by key."""
    from feedcore.config import Settings

    return {
        f"{section}.{key}"
        for section, one in Settings.model_fields.items()
        for key in getattr(one.annotation, "model_fields", {})
    }


def _role(process: psutil.Process) -> str:
    line = " ".join(process.cmdline())
    roles = {"processes.worker": "api", "processes.fanout": "fanout"}
    return next((role for module, role in roles.items() if f"feedcore_server.{module}" in line), "")


@contextlib.contextmanager
def serving(
    data: Path,
    *,
    cores: Sequence[int],
    settings: dict[str, object] | None = None,
    workers: int = 1,
    fanout_core: int | None = None,
) -> Iterator[Server]:
    """Serves `data` with worker i on cores[i]. RuntimeError has the server's last words."""
    command = [sys.executable, "-c", SERVE, "serve", "--data-dir", str(data)]
    command += ["--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0"]
    command += ["--workers", str(workers), "--log-level", "warning"]
    for key, value in (settings or {}).items():
        command += ["--set", f"{key}={value}"]
    log = data.parent / f"{data.name}.log"
    with log.open("wb") as errors, pinned(cores[0]):
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors
        )
    try:
        port, metrics_url = _until_ready(process, log)
        children = psutil.Process(process.pid).children(recursive=True)
        api = [one for one in children if _role(one) == "api"]
        fanout = next((one for one in children if _role(one) == "fanout"), None)
        for place, worker in enumerate(api):
            pin_process(worker.pid, cores[place % len(cores)])
        if fanout is not None and fanout_core is not None:
            pin_process(fanout.pid, fanout_core)
        yield Server(process, port, metrics_url, log, api, fanout)
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with {process.returncode}\n{_words(log)}")
    finally:
        _end(process)


def _until_ready(process: subprocess.Popen[bytes], log: Path) -> tuple[int, str]:
    assert process.stdout is not None
    fd = process.stdout.fileno()
    deadline = time.monotonic() + START_TIMEOUT_S
    text = ""
    while time.monotonic() < deadline:
        if not select.select([fd], [], [], 0.2)[0]:
            continue
        part = os.read(fd, 4_096)
        if not part:
            raise RuntimeError(f"the server did not start\n{_words(log)}")
        text += part.decode()
        if found := READY.search(text):
            url = METRICS.search(text)
            return int(found[1]), url[1] if url else ""
    raise RuntimeError(f"the server is not ready after {START_TIMEOUT_S:.0f} s\n{_words(log)}")


def _words(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-2_000:]


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


@dataclass
class Series:
    """What was seen over time: `at` in seconds since the start; `calls` a second; CPU in cores and
    RSS in bytes by process name."""

    at: list[float] = field(default_factory=list)
    calls: list[float] = field(default_factory=list)
    cpu: dict[str, list[float]] = field(default_factory=dict)
    rss: dict[str, list[int]] = field(default_factory=dict)
    others: list[float] = field(default_factory=list)

    def mean_cpu(self, name: str) -> float:
        """Cores of that process, over the whole time."""
        values = self.cpu.get(name, [])
        return sum(values) / len(values) if values else 0.0

    def cpu_us_a_call(self, name: str) -> float:
        """CPU of that process a call, in microseconds: others on the machine hardly change it."""
        calls = sum(self.calls) / len(self.calls) if self.calls else 0.0
        return 1e6 * self.mean_cpu(name) / calls if calls else 0.0

    def mean_others(self) -> float:
        """Cores that everything else on the machine used."""
        return sum(self.others) / len(self.others) if self.others else 0.0


class Watch:
    """Samples processes and a counter in a thread while a scenario runs. Context manager."""

    def __init__(
        self, server: Server, count: Callable[[], int], tell: Callable[[Series], None] | None = None
    ) -> None:
        self.series = Series()
        self._count = count
        self._tell = tell
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch")
        named = [(f"worker {i}", one) for i, one in enumerate(server.workers)]
        if server.fanout is not None:
            named.append(("fan-out", server.fanout))
        named += server.beside.items()
        self._processes = [*named, ("generator", psutil.Process())]

    def __enter__(self) -> Series:
        self._switch_s = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_S)
        self._thread.start()
        return self.series

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        sys.setswitchinterval(self._switch_s)

    def _run(self) -> None:
        began = before_s = time.monotonic()
        busy, calls, machine = self._busy(), self._count(), _machine_busy()
        while not self._stop.wait(SAMPLE_EVERY_S):
            now_s = time.monotonic()
            span = now_s - before_s
            busy_now, calls_now, machine_now = self._busy(), self._count(), _machine_busy()
            series = self.series
            series.at.append(now_s - began)
            series.calls.append((calls_now - calls) / span)
            ours = 0.0
            for name, process in self._processes:
                cores = (busy_now[name] - busy[name]) / span
                ours += cores
                series.cpu.setdefault(name, []).append(cores)
                series.rss.setdefault(name, []).append(_rss(process))
            series.others.append(max(0.0, (machine_now - machine) / span - ours))
            busy, calls, machine, before_s = busy_now, calls_now, machine_now, now_s
            if self._tell is not None:
                self._tell(series)

    def _busy(self) -> dict[str, float]:
        found = {}
        for name, process in self._processes:
            try:
                times = process.cpu_times()
                found[name] = times.user + times.system
            except psutil.NoSuchProcess:
                found[name] = 0.0
        return found


def _rss(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def _machine_busy() -> float:
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq + times.steal)


def publish(server: Server, author: int, body: str) -> int:
    """One post, outside of any load."""
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
            methods.PATHS[methods.PUBLISH]
        )
        reply = call(methods.publish(author, body), timeout=30, wait_for_ready=True)
    return publish_pb2.PublishResponse.FromString(reply).content_id
