"""What the load generator itself can offer: against nghttpd with a static reply, beside h2load on
the same nghttpd.

    python -m feedcore_bench.ceiling [--rounds 5] [--seconds 2] [--small]

nghttpd (C++, one worker) runs on one core, its driver on the other; rounds visit every
driver in turn, so that what else the machine does hurts all alike. Needs nghttpd (nghttp2-server)
and h2load (nghttp2-client). Where the generator is faster than nghttpd, the CPU that it takes a
call says how much more its core offers: the column 'a core offers' is its inverse.

Not for: servers that answer from data; their rates are in the reports of scenarios.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from feedcore_bench._native.h2client import Cycle
from feedcore_bench.engine import Result, run_closed, run_open

SIZES = (2_500, 8_192)  # bytes of a reply: a page of 20 items, and one with long contents
CONNECTIONS, STREAMS = 8, 32
WARM_UP_S = 0.5
START_WITHIN_S = 10.0
OPEN_SHARE = 0.7  # the open loop's rate, of the closed loop's in the same round
PATH = "/bench.Bench/Reply"
REQUEST = b"\x0a\x08" + b"a" * 8  # 10 bytes, as a GetFeed request has
ATTEMPTS = 8  # a busy machine may give nghttpd no time at all for as long as a short round lasts
WIRE_OVERHEAD_MAX = 400  # bytes a reply beyond its message: frames and headers
H2LOAD, PYTHON, CYCLE, OPEN = "h2load", "closed loop", "closed loop, cycle", "open loop"
DRIVERS = (PYTHON, CYCLE, OPEN, H2LOAD)


@dataclass(frozen=True)
class Sample:
    """One driver in one round. `cpu_us`: CPU of the driver a call, None where it spins;
    `lateness_p99_us`: of the open loop's schedule."""

    driver: str
    size: int
    round: int
    calls_s: float
    cpu_us: float | None
    lateness_p99_us: float | None = None


class Checked:
    """A workload in Python that does what the least one does: gives a request, looks at status and
    length."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.asked = self.wrong = 0

    def next(self) -> tuple[int, bytes, object] | None:
        """The same request again."""
        self.asked += 1
        return 0, REQUEST, self.asked

    def done(
        self,
        _tag: object,
        _method: int,
        status: int,
        body: bytes,
        _latency_ns: int,
        _now_ns: int,
        _detail: str,
    ) -> None:
        """Counts what is wrong."""
        if status or len(body) != self.size:
            self.wrong += 1


def lacking() -> str:
    """Which tools are missing and how to get them; "" if they are there."""
    tools = {"nghttpd": "nghttp2-server", "h2load": "nghttp2-client"}
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if not missing:
        return ""
    packages = " ".join(tools[tool] for tool in missing)
    return f"{' and '.join(missing)} missing: apt-get install {packages}"


@contextlib.contextmanager
def pinned(core: int) -> Iterator[None]:
    """This process, and those that it starts inside, run on that core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def framed(message: bytes) -> bytes:
    """As gRPC frames it."""
    return b"\0" + len(message).to_bytes(4, "big") + message


@contextlib.contextmanager
def nghttpd(folder: Path, sizes: Sequence[int], core: int) -> Iterator[str]:
    """A static server of replies of these sizes; its address. Raises RuntimeError."""
    www = folder / "www"
    for size in sizes:
        reply = www / f"{PATH}{size}".lstrip("/")
        reply.parent.mkdir(parents=True, exist_ok=True)
        reply.write_bytes(framed(b"x" * size))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = ["nghttpd", "--no-tls", "-n1", "-a", "127.0.0.1", "-d", str(www), str(port)]
    quiet = subprocess.DEVNULL
    with pinned(core):
        process = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet)
    try:
        deadline = time.monotonic() + START_WITHIN_S
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("nghttpd does not answer")
            time.sleep(0.02)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def h2load(address: str, size: int, seconds: float, request: Path) -> tuple[float, float]:
    """(calls a second, CPU microseconds a call). Raises RuntimeError if any reply was not right."""
    line = ["h2load", "-t1", f"-c{CONNECTIONS}", f"-m{STREAMS}", "-D", f"{round(seconds * 1e3)}ms"]
    line += [f"--warm-up-time={round(WARM_UP_S * 1e3)}ms", "-d", str(request)]
    line += ["-H", "content-type: application/grpc", "-H", "te: trailers"]
    line.append(f"http://{address}{PATH}{size}")
    for _attempt in range(ATTEMPTS):
        before = os.times()
        text = subprocess.run(line, check=True, capture_output=True, text=True).stdout
        after = os.times()
        if "requests: 0 total" not in text:
            break
    rate = re.search(r"finished in [\d.]+\w+, ([\d.]+) req/s", text)
    counts = re.search(
        r"(\d+) done, (\d+) succeeded, 0 failed, 0 errored, 0 timeout\n"
        r"status codes: (\d+) 2xx, 0 3xx, 0 4xx, 0 5xx\ntraffic: \S+ \((\d+)\) total",
        text,
    )
    if not rate or not counts or int(counts[1]) != int(counts[2]) or not int(counts[1]):
        raise RuntimeError(f"h2load: {text[-800:]}")
    calls, octets = int(counts[1]), int(counts[4])
    edge = CONNECTIONS * STREAMS * (size + WIRE_OVERHEAD_MAX)
    if not calls * size - edge <= octets <= calls * (size + WIRE_OVERHEAD_MAX) + edge:
        raise RuntimeError(f"h2load: {octets} bytes for {calls} replies of {size}")
    used = after.children_user - before.children_user
    used += after.children_system - before.children_system
    return float(rate[1]), used * seconds / (seconds + WARM_UP_S) / calls * 1e6


def closed(address: str, size: int, seconds: float, cycle: bool) -> Result:
    """The closed loop, with a workload in Python or with a cycle. Raises RuntimeError as above."""
    for _attempt in range(ATTEMPTS):
        found, checked = _closed(address, size, seconds, cycle)
        if found.answered:
            break
    return right(found, checked)


def _closed(address: str, size: int, seconds: float, cycle: bool) -> tuple[Result, Checked]:
    checked = Checked(size)

    def check(_method: int, body: bytes) -> None:
        checked.wrong += len(body) != size

    found = run_closed(
        address,
        [f"{PATH}{size}"],
        Cycle([(0, REQUEST)], 64, check) if cycle else checked,
        connections=CONNECTIONS,
        streams=STREAMS,
        seconds=seconds,
        warm_up_s=WARM_UP_S,
        plain=True,
    )
    return found, checked


def opened(address: str, size: int, seconds: float, rate: float) -> Result:
    """The open loop at that rate. Raises RuntimeError as above."""
    checked = Checked(size)
    found = run_open(
        address,
        [f"{PATH}{size}"],
        checked,
        connections=CONNECTIONS,
        streams_max=STREAMS * 2,
        rate=rate,
        seconds=seconds,
        warm_up_s=WARM_UP_S,
        plain=True,
    )
    return right(found, checked)


def right(found: Result, checked: Checked) -> Result:
    """The same, if every reply was right."""
    if checked.wrong or found.failed.count or found.unanswered or found.lost or not found.ok:
        raise RuntimeError(
            f"{found.mode}: {checked.wrong} wrong, {found.statuses}, {found.lost} lost"
        )
    return found


def one_round(
    address: str, size: int, number: int, seconds: float, request: Path
) -> Iterator[Sample]:
    """Every driver in turn."""
    python = closed(address, size, seconds, False)
    yield Sample(PYTHON, size, number, python.ok_s, python.cpu_s / python.ok * 1e6)
    cycle = closed(address, size, seconds, True)
    yield Sample(CYCLE, size, number, cycle.ok_s, cycle.cpu_s / cycle.ok * 1e6)
    found = opened(address, size, seconds, python.ok_s * OPEN_SHARE)
    late = found.lateness.percentile(99) / 1e3
    yield Sample(OPEN, size, number, found.ok_s, None, late)
    rate, cpu_us = h2load(address, size, seconds, request)
    yield Sample(H2LOAD, size, number, rate, cpu_us)


def measure(
    rounds: int,
    seconds: float,
    server_core: int,
    load_core: int,
    sizes: Sequence[int] = SIZES,
    progress: Callable[[Sample], None] | None = None,
) -> list[Sample]:
    """All samples. `lacking` says first whether the tools are there. Raises RuntimeError if a reply
    was not right."""
    samples: list[Sample] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        request = folder / "request"
        request.write_bytes(framed(REQUEST))
        with nghttpd(folder, sizes, server_core) as address, pinned(load_core):
            for number in range(rounds):
                for size in sizes:
                    for sample in one_round(address, size, number, seconds, request):
                        samples.append(sample)
                        if progress is not None:
                            progress(sample)
    return samples


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def table(samples: Sequence[Sample]) -> str:
    """Markdown: medians over the rounds, and ratios to h2load within rounds."""
    lines = [
        "| reply | driver | calls/s | times h2load | CPU a call | a core offers | lateness p99 |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for size in sorted({sample.size for sample in samples}):
        peers = {
            one.round: one.calls_s for one in samples if (one.driver, one.size) == (H2LOAD, size)
        }
        for driver in DRIVERS:
            mine = [one for one in samples if (one.driver, one.size) == (driver, size)]
            if not mine:
                continue
            ratio = _median([one.calls_s / peers[one.round] for one in mine if one.round in peers])
            cpu = _median([one.cpu_us for one in mine])
            late = _median([one.lateness_p99_us for one in mine])
            cells = [
                f"{size:,} B",
                driver,
                f"{_median([one.calls_s for one in mine]):,.0f}",
                f"{ratio:.2f}" if ratio is not None else "",
                f"{cpu:.2f} us" if cpu is not None else "",
                f"{1e6 / cpu:,.0f}" if cpu else "",
                f"{late:,.0f} us" if late is not None else "",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


@click.command(help=__doc__.splitlines()[0])
@click.option("--rounds", default=5, show_default=True)
@click.option("--seconds", default=2.0, show_default=True, help="of each driver in each round")
@click.option("--server-core", default=0, show_default=True)
@click.option("--load-core", default=1, show_default=True)
@click.option("--json", "as_json", type=click.Path(path_type=Path), help="write samples there, too")
@click.option("--small", is_flag=True, help="one short round: that it works, not how fast it is")
def main(
    rounds: int, seconds: float, server_core: int, load_core: int, as_json: Path | None, small: bool
) -> None:
    """Command line."""
    cores = os.sched_getaffinity(0)
    if not {server_core, load_core} <= cores:
        raise click.UsageError(f"cores {server_core} and {load_core}: there are {sorted(cores)}")
    if small:
        rounds, seconds = 1, 0.2
    if missing := lacking():
        click.echo(f"ceiling: SKIPPED, {missing}")
        return

    def tell(sample: Sample) -> None:
        click.echo(f"{sample.round} {sample.size} {sample.driver}: {sample.calls_s:,.0f}", err=True)

    try:
        samples = measure(rounds, seconds, server_core, load_core, progress=tell)
    except (RuntimeError, subprocess.CalledProcessError) as error:
        raise click.ClickException(str(error)) from error
    if as_json is not None:
        as_json.write_text(json.dumps([asdict(one) for one in samples], indent=1), encoding="utf-8")
    click.echo(table(samples))


if __name__ == "__main__":
    main()
