"""One cell of the matrix: h2load on its core against a server on the other, checked and timed.

h2load counts an answer as success by its HTTP status, and does not read grpc-status. A cell is
therefore refused unless nothing failed, every status is 2xx, *and* the bytes received are those of
full replies: a refusal of gRPC comes with status 200 and no message, which is too few bytes.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.transport import matrix
from benchmarks.transport.matrix import Cell
from benchmarks.transport.servers import Files, Running, pinned

LOAD_TIMEOUT_S = 60.0  # beyond the time asked for: h2load that hangs is a fault of the server
FRAME_HEADER = 9
WIRE_OVERHEAD_MAX = 400  # bytes a reply beyond the message: frames, headers, trailers
# Others took so much of a core: the cell is worth another try, and a note if that was no better. A
# quiet machine has below 0.05.
DISTURBED = 0.25
_UNITS_US = {"us": 1.0, "ms": 1_000.0, "s": 1_000_000.0}


class Refused(RuntimeError):
    """What was measured is not what should have been measured."""


@dataclass(frozen=True)
class Sample:
    """One cell in one round. CPU in cores: 1.0 is one core, all the time."""

    server: str
    row: str
    size: int
    round: int
    replies_s: float
    replies: int
    mean_us: float
    p50_us: float | None
    p99_us: float | None
    cpu_server: float
    cpu_load: float
    cpu_others: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Counts:
    """What h2load printed."""

    replies_s: float
    succeeded: int
    wire_bytes: int
    mean_us: float


def parse(text: str) -> Counts:
    """The counts of h2load's report. Raises Refused if anything failed or nothing was done."""
    rate = re.search(r"finished in [\d.]+\w+, ([\d.]+) req/s", text)
    requests = re.search(
        r"requests: (\d+) total, \d+ started, (\d+) done, (\d+) succeeded, (\d+) failed,"
        r" (\d+) errored, (\d+) timeout",
        text,
    )
    statuses = re.search(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", text)
    traffic = re.search(r"traffic: \S+ \((\d+)\) total", text)
    timing = re.search(r"time for request:\s+\S+\s+\S+\s+([\d.]+)(us|ms|s)\b", text)
    if not (rate and requests and statuses and traffic and timing):
        raise Refused(f"h2load printed no report:\n{text[-2_000:]}")
    _, done, succeeded, failed, errored, timeouts = map(int, requests.groups())
    if failed or errored or timeouts or succeeded != done or not done:
        raise Refused(requests[0])
    if any(map(int, statuses.groups()[1:])):
        raise Refused(statuses[0])
    mean_us = float(timing[1]) * _UNITS_US[timing[2]]
    return Counts(float(rate[1]), succeeded, int(traffic[1]), mean_us)


def check_bytes(counts: Counts, cell: Cell) -> None:
    """Raises Refused unless the replies were full ones."""
    whole = cell.size + len(matrix.frame(b""))
    # Replies that began before the measuring, or did not end in it: at most one a stream.
    edge = cell.row.connections * cell.row.streams * (whole + WIRE_OVERHEAD_MAX)
    least = counts.succeeded * (whole + FRAME_HEADER) - edge
    most = counts.succeeded * (whole + WIRE_OVERHEAD_MAX) + edge
    if not least <= counts.wire_bytes <= most:
        raise Refused(
            f"{counts.wire_bytes} bytes for {counts.succeeded} replies of {cell.size}: "
            f"{least} to {most} would be right; not every reply was a full one"
        )


def command(cell: Cell, port: int, files: Files, seconds: float, tls: bool) -> list[str]:
    """h2load's command line, without a log."""
    url = f"{'https' if tls else 'http'}://127.0.0.1:{port}{matrix.path(cell.size)}"
    line = ["h2load", "-t1", f"-c{cell.row.connections}", f"-m{cell.row.streams}"]
    line += ["-D", f"{round(seconds * 1_000)}ms"]
    line += [f"--warm-up-time={round(matrix.WARM_UP_S * 1_000)}ms"]
    line += ["-d", str(files.request), "-H", "content-type: application/grpc"]
    return [*line, "-H", "te: trailers", url]


def machine_busy_s() -> float:
    """CPU seconds that all cores together have been busy, or were taken by the hypervisor."""
    times = psutil.cpu_times()
    return float(
        times.user
        + times.nice
        + times.system
        + times.irq
        + times.softirq
        + getattr(times, "steal", 0.0)
    )


def _server_busy_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def latencies_us(log: Path) -> list[int]:
    """Microseconds of each request, from h2load's log."""
    with log.open(encoding="ascii") as lines:
        return [int(line.split("\t")[2]) for line in lines]


def measure(
    cell: Cell, number: int, target: Running, files: Files, seconds: float, core: int
) -> Sample:
    """One cell in one round. Raises Refused."""
    line = command(cell, target.port, files, seconds, target.server.tls)
    log = files.folder / "latency.log"
    log.unlink(missing_ok=True)
    single = cell.row == matrix.ONE_BY_ONE
    if single:  # a percentile needs every request; with more streams, writing them costs too much
        line.insert(1, f"--log-file={log}")
    if target.process.poll() is not None:
        raise Refused(f"the server has ended with {target.process.returncode}")
    server = psutil.Process(target.process.pid)
    output = files.folder / "h2load.out"
    began, busy, served = time.monotonic(), machine_busy_s(), _server_busy_s(server)
    with output.open("wb") as out, pinned(core):
        process = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    used = _wait(process, seconds + matrix.WARM_UP_S + LOAD_TIMEOUT_S)
    wall = time.monotonic() - began
    busy, served = machine_busy_s() - busy, _server_busy_s(server) - served
    counts = parse(output.read_text(encoding="utf-8", errors="replace"))
    check_bytes(counts, cell)
    ordered = sorted(latencies_us(log)) if single else []
    return Sample(
        server=cell.server,
        row=cell.row.name,
        size=cell.size,
        round=number,
        replies_s=counts.replies_s,
        replies=counts.succeeded,
        mean_us=counts.mean_us,
        p50_us=statistics.median(ordered) if ordered else None,
        p99_us=float(ordered[len(ordered) * 99 // 100]) if ordered else None,
        cpu_server=served / wall,
        cpu_load=used / wall,
        cpu_others=max(0.0, busy - served - used) / wall,
    )


def _wait(process: subprocess.Popen[bytes], timeout_s: float) -> float:
    """Waits for the end of h2load; returns the CPU seconds it used."""
    # wait4 has no timeout, and is the one that tells what a child has used.
    deadline = time.monotonic() + timeout_s
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            break
        if time.monotonic() > deadline:
            process.kill()
            process.wait()
            raise Refused(f"h2load did not end within {timeout_s:.0f} s")
        time.sleep(0.01)
    if process.returncode != 0:
        raise Refused(f"h2load ended with {process.returncode}")
    return usage.ru_utime + usage.ru_stime
