"""Drives a workload against a gRPC server from one thread: in a closed loop, or at a given rate.

A closed loop keeps connections x streams calls in flight: it finds what a server can do. An open
loop offers calls at times that were drawn beforehand and do not depend on answers, and counts each
latency from the *intended* start: a server that stops for a while is charged with everybody who
came meanwhile (no coordinated omission). What cannot be sent, because every stream is taken, waits
in a bounded queue, and its waiting is part of the latency.

Invariants: `done` is called once for each request that `next` gave; a run ends at most `drain_s`
after its time; the warm-up is driven like the rest and not counted.

Not for: what is asked and whether answers are right (the workload), reports.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from feedcore_bench._native.h2call import Template
from feedcore_bench._native.h2client import Cycle
from feedcore_bench._native.loadstats import Histogram, Recorder, Schedule
from feedcore_bench.connections import Connection, Connections

if TYPE_CHECKING:
    from feedcore_bench._native.loadstats import Second

NS = 1_000_000_000
BACKLOG = 1 << 20  # arrivals that may wait: 20 s at 50,000 a second, 8 MiB
DRAIN_S = 10.0  # after the last request: longer than any deadline that a caller would set
IDLE_S = 0.01  # longest wait in one turn: bounds how late a tick and the end of a run are
SPIN_NS = 80_000  # what the kernel may oversleep (timer slack: 50 us): nearer arrivals are spun for
DEADLINE_EXCEEDED = 4

Method = str | Template


class Workload(Protocol):
    """What is asked. Both methods run within the driver's turn: what they take is offered less."""

    def next(self) -> tuple[int, bytes, object] | None:
        """(method index, encoded request, tag), or None: nothing to do before an answer comes or
        time passes; it is asked again at most 10 ms later."""

    def done(
        self,
        tag: Any,
        method: int,
        status: int,
        body: bytes,
        latency_ns: int,
        now_ns: int,
        detail: str,
    ) -> None:
        """One answer. `status`: gRPC's; `body`: the message, empty unless status is 0; `now_ns`:
        time.monotonic_ns; `detail`: the server's message and pushback, or why there is none."""


@dataclass(frozen=True)
class Progress:
    """Once a second, warm-up included. Latencies in ns, of this second's answers. `measuring`:
    whether it counts; `waiting`: arrivals that wait in the generator."""

    at_s: float
    measuring: bool
    ok: int
    failed: int
    p50_ns: int
    p99_ns: int
    max_ns: int
    in_flight: int
    waiting: int
    connections: int


@dataclass
class Result:
    """One run. Latencies in ns; shares are of one core over the measured time.

    `histograms`: by method, of answers with status OK; `failed`: of all others; `statuses`: by
    method, status -> calls. `series`: (seconds since the begin, OK, other, p50, p99, max) of each
    second, warm-up included. `busy_share`: time not spent waiting for something to do: near 1.0 the
    generator may have been the bottleneck. `cpu_share` counts waiting by spinning, too.

    Open loop only: `arrivals` that were intended, `dropped` of them by a full queue (`overflowed`
    then: latencies are too good to be true), `waiting_max` the longest queue, `lateness` how late
    the generator itself noticed arrivals.

    `unanswered`: calls that had no answer when the run gave up waiting; told to the workload, and
    counted where they are measured, as DEADLINE_EXCEEDED. `lost`: connections that broke."""

    mode: str
    methods: list[str]
    connections: int
    streams: int
    seconds: float
    warm_up_s: float
    steps: list[tuple[float, float]]
    histograms: list[Histogram]
    failed: Histogram
    statuses: list[dict[int, int]]
    series: list[Second]
    answered: int = 0
    body_bytes: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    cpu_s: float = 0.0
    cpu_share: float = 0.0
    busy_share: float = 0.0
    arrivals: int = 0
    dropped: int = 0
    waiting_max: int = 0
    lateness: Histogram = field(default_factory=Histogram)
    unanswered: int = 0
    opened: int = 0
    lost: int = 0

    @property
    def ok(self) -> int:
        """Measured calls with status OK."""
        return sum(one.count for one in self.histograms)

    @property
    def ok_s(self) -> float:
        """The same a second."""
        return self.ok / self.seconds

    @property
    def overflowed(self) -> bool:
        """The run says less than it should: arrivals were dropped."""
        return self.dropped > 0

    def latency(self) -> Histogram:
        """Of all OK calls, whatever their method."""
        whole = Histogram()
        for one in self.histograms:
            whole.merge(one)
        return whole


def templates_of(
    methods: Sequence[Method], address: str, timeout_ms: int | None = None
) -> list[Template]:
    """Header blocks of methods that are given by path; others stay as they are."""
    return [
        one if isinstance(one, Template) else Template(one, address, timeout_ms) for one in methods
    ]


def run_closed(
    address: str,
    methods: Sequence[Method],
    workload: Workload | Cycle,
    *,
    connections: int,
    streams: int,
    seconds: float,
    warm_up_s: float = 1.0,
    timeout_ms: int | None = None,
    progress: Callable[[Progress], None] | None = None,
    plain: bool = False,
    drain_s: float = DRAIN_S,
) -> Result:
    """Keeps connections x streams calls in flight for warm_up_s + seconds. A Cycle as workload is
    driven without entering Python. `timeout_ms`: grpc-timeout; `plain`: see Client. Raises
    ConnectionError if the server cannot be reached at the begin."""
    run = _Run(address, methods, workload, connections, streams, timeout_ms, plain)
    with _quiet_collector(), run:
        run.begin(warm_up_s, seconds, False, progress)
        run.refill(run.pool.active)
        while run.now_ns < run.end_ns:
            ready = run.turn(IDLE_S)
            run.refill(run.pool.active if run.starved or not ready else ready)
        run.drain(drain_s)
    return run.result("closed", [])


def run_open(
    address: str,
    methods: Sequence[Method],
    workload: Workload,
    *,
    connections: int,
    streams_max: int,
    rate: float | None = None,
    seconds: float | None = None,
    steps: Sequence[tuple[float, float]] = (),
    poisson: bool = True,
    seed: int = 1,
    warm_up_s: float = 1.0,
    timeout_ms: int | None = None,
    progress: Callable[[Progress], None] | None = None,
    plain: bool = False,
    backlog: int = BACKLOG,
    drain_s: float = DRAIN_S,
) -> Result:
    """Offers `rate` calls a second for `seconds`, or each (seconds, rate) of `steps` in turn; the
    warm-up has the first rate. Same seed, same arrivals. Raises as run_closed."""
    if rate is not None and seconds is not None and not steps:
        steps = [(seconds, rate)]
    elif rate is not None or seconds is not None or not steps:
        raise ValueError("give rate and seconds, or steps")
    whole = [(warm_up_s, steps[0][1])] * (warm_up_s > 0) + list(steps)
    run = _Run(address, methods, workload, connections, streams_max, timeout_ms, plain)
    with _quiet_collector(), run:
        run.begin(warm_up_s, sum(step[0] for step in steps), True, progress)
        schedule = Schedule(whole, run.begin_ns, seed, poisson, backlog)
        run.schedule = schedule
        while run.now_ns < run.end_ns:
            stuck = schedule.advance(run.now_ns) > 0 and run.place(schedule) > 0
            gap_ns = run.end_ns - run.now_ns if schedule.over else schedule.next_ns - run.now_ns
            wait_s = min((gap_ns - SPIN_NS) / NS, IDLE_S)
            # stuck: an answer makes room, and new arrivals may as well be late by a little
            run.turn(max(wait_s, 0.0002 if stuck else 0.0))
        run.drain(drain_s)
    return run.result("open", list(steps))


@contextmanager
def _quiet_collector() -> Iterator[None]:
    """What there is before the run is not looked at by the garbage collector during it: a world of
    millions of objects would stop the generator for as long as it takes to visit them."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


class _Run:
    """State of one run; a context manager that closes the connections."""

    def __init__(
        self,
        address: str,
        methods: Sequence[Method],
        workload: Workload | Cycle,
        connections: int,
        streams: int,
        timeout_ms: int | None,
        plain: bool,
    ) -> None:
        if connections < 1 or streams < 1:
            raise ValueError(f"connections x streams: {connections}x{streams}; at least 1x1")
        self.templates = templates_of(methods, address, timeout_ms)
        self.pool = Connections(address, self.templates, connections, streams, plain)
        self.workload, self.streams = workload, streams
        self.cycle = workload if isinstance(workload, Cycle) else None
        self.ask = getattr(workload, "next", lambda: None)
        self.pool.tell = getattr(workload, "done", _nobody)
        self.schedule: Schedule | None = None
        self.starved = False
        self.unanswered = 0
        self._idle_ns = 0
        self._rotation = 0
        self._edges: list[tuple[int, float, int, int, int]] = []

    def __enter__(self) -> _Run:
        self.pool.recorder = Recorder(len(self.templates), 0, 0, False)
        self.pool.start()
        return self

    def __exit__(self, kind: object, *_exception: object) -> None:
        if kind is not None:  # a workload that has failed is told nothing more
            self.pool.tell = _nobody
        self.unanswered += self.pool.close("the run is over: no answer", DEADLINE_EXCEEDED)

    def begin(
        self,
        warm_up_s: float,
        seconds: float,
        by_start: bool,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        """Starts the clock."""
        self.seconds, self.warm_up_s, self.progress = seconds, warm_up_s, progress
        self.now_ns = self.begin_ns = time.monotonic_ns()
        self.from_ns = self.begin_ns + round(warm_up_s * NS)
        self.end_ns = self.from_ns + round(seconds * NS)
        self.recorder = Recorder(len(self.templates), self.from_ns, self.end_ns, by_start)
        self.pool.recorder = self.recorder
        self._tick_ns = self.begin_ns + NS

    # --- turns ----------------------------------------------------------------------------------
    def turn(self, wait_s: float) -> list[Connection]:
        """Waits, handles what came, keeps the clock; connections that may have room."""
        before_ns = time.monotonic_ns()
        events = self.pool.poll(wait_s)
        after_ns = time.monotonic_ns()
        if wait_s > 0 or not events:
            self._idle_ns += after_ns - before_ns
        ready = self.pool.handle(events) if events else []
        if len(self.pool.active) < self.pool.wanted:
            self.pool.replace(after_ns)
        self.now_ns = time.monotonic_ns()
        if self.now_ns >= self._tick_ns:
            self._tick()
        edge_ns = (self.from_ns, self.end_ns)[len(self._edges)] if len(self._edges) < 2 else 0
        if edge_ns and self.now_ns >= edge_ns:
            self._edge()
        return ready

    def _edge(self) -> None:
        """The measured time begins or ends."""
        pool = self.pool
        self._edges.append(
            (self.now_ns, time.process_time(), self._idle_ns, pool.bytes_in, pool.bytes_out)
        )

    def _tick(self) -> None:
        self._tick_ns += NS
        line = self.recorder.tick((self.now_ns - self.begin_ns) / NS)
        if self.progress is not None:
            measuring = self.from_ns < self.now_ns <= self.end_ns + NS // 2
            waiting = self.schedule.waiting if self.schedule is not None else 0
            flying, there = self.pool.open_calls(), len(self.pool.active)
            self.progress(Progress(line[0], measuring, *line[1:], flying, waiting, there))

    def refill(self, connections: Sequence[Connection]) -> None:
        """Closed loop: fills every stream of these connections."""
        self.starved = False
        for connection in list(connections):
            client = connection.client
            if self.cycle is not None:
                client.fill_cycle(self.cycle, self.recorder, self.streams, self.now_ns)
            elif client.fill(self.ask, self.recorder, self.streams, self.now_ns) < 0:
                self.starved = True
            self.pool.flush(connection)

    def place(self, schedule: Schedule) -> int:
        """Open loop: opens what is due, spread over the connections; how many still wait."""
        active = list(self.pool.active)
        self._rotation += 1
        for _round in range(2):  # in equal parts, then wherever there is room
            share = -(-schedule.waiting // max(len(active), 1)) if _round == 0 else self.streams
            for at in range(len(active)):
                if not schedule.waiting:
                    return 0
                connection = active[(at + self._rotation) % len(active)]
                count = connection.client.fill_due(self.ask, self.recorder, schedule, share)
                if count not in (0, -1):
                    self.pool.flush(connection)
                if count < 0:
                    return schedule.waiting
        return schedule.waiting

    def drain(self, drain_s: float) -> None:
        """Waits for the answers to what was asked; what waits in the queue is still sent."""
        deadline_ns = self.now_ns + round(drain_s * NS)
        while len(self._edges) < 2:
            self._edge()
        while self.now_ns < deadline_ns:
            waiting = 0
            if self.schedule is not None:
                self.schedule.advance(self.now_ns)
                waiting = self.place(self.schedule)
            if not waiting and not self.pool.open_calls():
                break
            self.turn(0.001)
        if self.schedule is not None:
            self._give_up(self.schedule)

    def _give_up(self, schedule: Schedule) -> None:
        """What was never sent is unanswered, too."""
        while schedule.waiting:
            self.recorder.record(0, DEADLINE_EXCEEDED, schedule.pop(), self.now_ns, 0)
            self.unanswered += 1

    def result(self, mode: str, steps: list[tuple[float, float]]) -> Result:
        """What was found, after the connections were closed."""
        (began, cpu, idle, got, sent), (ended, cpu_end, idle_end, got_end, sent_end) = self._edges
        wall_ns = ended - began
        found = Result(
            mode,
            [template.path for template in self.templates],
            self.pool.wanted,
            self.streams,
            self.seconds,
            self.warm_up_s,
            steps,
            self.recorder.histograms,
            self.recorder.failed,
            [self.recorder.counts(at) for at in range(len(self.templates))],
            self.recorder.seconds,
            answered=self.recorder.answered,
            body_bytes=self.recorder.body_bytes,
            bytes_in=got_end - got,
            bytes_out=sent_end - sent,
            cpu_s=cpu_end - cpu,
            cpu_share=(cpu_end - cpu) * NS / wall_ns,
            busy_share=1 - (idle_end - idle) / wall_ns,
            unanswered=self.unanswered,
            opened=self.pool.opened,
            lost=self.pool.lost,
        )
        if self.schedule is not None:
            found.arrivals, found.dropped = self.schedule.arrivals, self.schedule.dropped
            found.waiting_max, found.lateness = self.schedule.waiting_max, self.schedule.lateness
        return found


def _nobody(*_answer: object) -> None:
    """A cycle's answers go to its own check."""
