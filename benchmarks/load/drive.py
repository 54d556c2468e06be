"""Drives phases of load: engine, watch and metrics become a Phase of the results.

Not for what is asked (workloads) or in which order (scenarios).
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from feedcore_bench import engine, methods
from feedcore_bench.checks import Checker
from feedcore_bench.results import PERCENTILES, Phase, Results
from feedcore_bench.server import Series, Server, Watch, known_keys, serving
from feedcore_bench.world import CACHE, Echo, Spec, World, obtain

if TYPE_CHECKING:
    from feedcore_bench._native.loadstats import Second

CONNECTIONS, STREAMS = 8, 16  # in flight in a closed loop: 128 calls keep one worker busy
OPEN_STREAMS = 100  # of each connection in an open loop: what servers allow by default
CURVE = [0.0, *range(5, 95, 5), *[100 - 10 ** -(n / 4 - 1) for n in range(13)]]
DISTURBED = 0.25  # cores that others may use before numbers are doubtful; a quiet machine: 0.05
COUNTED_EVERY_S = 1.1  # workers bring counters of compiled code up to date once a second
# Counters of the server that say how pages came about: parts of their names.
TIERS = (
    "feed_answers",
    "cache_reads",
    "cache_evicted",
    "loads_total",
    "not_modified",
    "feed_pages",
)


@dataclass(frozen=True)
class Options:
    """How a run is made. `seconds` of each phase; cores by number."""

    seconds: float
    warm_up_s: float
    seed: int
    users: int
    scale: float
    window_users: int
    graph: str
    server_core: int
    load_core: int
    soak_s: float
    again: int  # times that a phase is run anew while others use the machine
    sizes: tuple[int, ...]
    full: bool
    tiny: bool = False
    profile: str = "embedded"
    posts_per_user: float = 2.5


class Shape(TypedDict):
    """How many calls a closed loop keeps in flight: connections times streams of each."""

    connections: int
    streams: int


class Bench:
    """One run: options, results, and what scenarios share. `echo` takes a line for people."""

    def __init__(
        self, options: Options, results: Results, echo: Echo, tell: Callable[[str, Series], None]
    ) -> None:
        self.options = options
        self.results = results
        self.echo = echo
        self._tell = tell
        self._keys = known_keys()
        self.checkers: list[tuple[str, Checker]] = []

    # --- worlds and servers ---------------------------------------------------------------------
    def world(self, spec: Spec, cache: Path = CACHE) -> World:
        """Made or found; noted in the results."""
        world = obtain(spec, self.echo, cache)
        self.results.worlds.setdefault(str(spec), world.describe())
        return world

    def known(self, **settings: object) -> dict[str, object]:
        """Settings with `__` for the dot, without those that this server has not."""
        named = {key.replace("__", "."): value for key, value in settings.items()}
        return {key: value for key, value in named.items() if key in self._keys}

    def has(self, key: str) -> bool:
        """The server knows that setting."""
        return key in self._keys

    @contextlib.contextmanager
    def serve(
        self,
        world: World,
        *,
        settings: dict[str, object] | None = None,
        workers: int = 1,
        cores: Sequence[int] | None = None,
    ) -> Iterator[Server]:
        """A server on a copy of the world, on its core."""
        with tempfile.TemporaryDirectory(prefix="feedcore-bench-") as folder:
            data = world.copy(Path(folder) / "data")
            with serving(
                data,
                cores=cores or (self.options.server_core,),
                settings=settings,
                workers=workers,
            ) as server:
                yield server

    def checker(self, scenario: str) -> Checker:
        """One whose findings count for the run."""
        checker = Checker()
        self.checkers.append((scenario, checker))
        return checker

    # --- phases ---------------------------------------------------------------------------------
    def closed(
        self,
        server: Server,
        scenario: str,
        name: str,
        workload: Any,
        *,
        seconds: float = 0.0,
        connections: int = CONNECTIONS,
        streams: int = STREAMS,
        warm_up_s: float | None = None,
        keep: bool = True,
        repeat: bool = True,
    ) -> Phase:
        """As fast as answers come."""
        seconds = seconds or self.options.seconds
        return self._phase(
            server,
            scenario,
            name,
            None,
            keep,
            repeat,
            lambda: engine.run_closed(
                f"127.0.0.1:{server.port}",
                methods.PATHS,
                workload,
                connections=connections,
                streams=streams,
                seconds=seconds,
                warm_up_s=self.options.warm_up_s if warm_up_s is None else warm_up_s,
            ),
            workload,
        )

    def open(
        self,
        server: Server,
        scenario: str,
        name: str,
        workload: Any,
        rate: float,
        *,
        seconds: float = 0.0,
        steps: Sequence[tuple[float, float]] = (),
        warm_up_s: float | None = None,
        repeat: bool = True,
    ) -> Phase:
        """At a rate that does not depend on answers."""
        seconds = seconds or self.options.seconds
        return self._phase(
            server,
            scenario,
            name,
            rate,
            True,
            repeat,
            lambda: engine.run_open(
                f"127.0.0.1:{server.port}",
                methods.PATHS,
                workload,
                connections=CONNECTIONS,
                streams_max=OPEN_STREAMS,
                steps=list(steps) or [(seconds, rate)],
                seed=self.options.seed,
                warm_up_s=self.options.warm_up_s if warm_up_s is None else warm_up_s,
            ),
            workload,
        )

    def _phase(
        self,
        server: Server,
        scenario: str,
        name: str,
        offered: float | None,
        keep: bool,
        repeat: bool,
        run: Callable[[], engine.Result],
        workload: Any,
    ) -> Phase:
        """Runs it; again, if others use the machine meanwhile and that is asked for, and then the
        least disturbed one counts: chosen by what others did, never by what it shows."""
        best = None
        for _ in range(1 + (self.options.again if keep and repeat else 0)):
            before = server.counted
            with Watch(
                server,
                lambda: workload.answered,
                lambda seen: self._tell(f"{scenario}: {name}", seen),
            ) as series:
                result = run()
            phase = to_phase(scenario, name, offered, result, series)
            if keep:
                self.settle(server)
                phase.tiers = tiers(before, server.counted)
            if best is None or series.mean_others() < best[0].series.mean_others():
                best = phase, result
            if best[0].series.mean_others() < DISTURBED:
                break
        assert best is not None
        phase, result = best
        if keep:
            self._doubts(phase, result)
            self.results.phases.append(phase)
        return phase

    def latency(self, key: str, phase: Phase, percent: float) -> None:
        """A percentile into the values. If so many calls were refused that it is not known what it
        would have been, the goal is missed whatever the others show."""
        self.results.values[key] = phase.ms(percent)
        if phase.refused() > 1 - percent / 100:
            self.results.spoiled[key] = f"missed: {phase.refused():.1%} of the calls were refused"

    def settle(self, server: Server) -> None:
        """Waits until the workers' counters are up to date, and reads them."""
        if not self.options.tiny:
            time.sleep(COUNTED_EVERY_S)
        server.counted = server.metrics()

    def _doubts(self, phase: Phase, result: engine.Result) -> None:
        """What a reader must know to believe the numbers."""
        notes = []
        if result.overflowed:
            notes.append(f"{result.dropped:,} arrivals did not fit the generator's queue")
        if result.unanswered:
            notes.append(f"{result.unanswered:,} calls had no answer")
        if result.lost:
            notes.append(f"{result.lost:,} connections broke")
        worker = phase.series.mean_cpu("worker 0")
        if phase.offered is None and result.busy_share > 0.97 and worker < 0.9:
            notes.append(f"the generator was the limit (worker {worker:.0%} busy)")
        for note in notes:
            self.results.note(phase.scenario, f"{phase.name}: {note}")


def to_phase(
    scenario: str,
    name: str,
    offered: float | None,
    result: engine.Result,
    series: Series,
) -> Phase:
    """From what the engine found. A call that was never answered counts with the time that it
    waited; those that were refused have no latency (Phase.refused has their share)."""
    whole = result.latency()
    statuses: dict[str, int] = {}
    by_method = {}
    for place, path in enumerate(result.methods):
        for status, count in result.statuses[place].items():
            if count:
                statuses[str(status)] = statuses.get(str(status), 0) + count
        one = result.histograms[place]
        if one.count:
            by_method[path.rsplit("/", 1)[1]] = {
                "calls": float(one.count),
                "p50_us": one.percentile(50) / 1_000,
                "p99_us": one.percentile(99) / 1_000,
            }
    if not statuses.get(str(methods.RESOURCE_EXHAUSTED)):
        whole.merge(result.failed)
    there = whole.count > 0
    return Phase(
        scenario=scenario,
        name=name,
        offered=offered,
        seconds=result.seconds,
        calls=result.ok,
        rate=result.ok_s,
        percentiles={
            f"{percent:g}": whole.percentile(percent) / 1_000 if there else 0.0
            for percent in PERCENTILES
        },
        max_us=whole.max / 1_000 if there else 0.0,
        curve=[(float(p), whole.percentile(p) / 1_000) for p in CURVE] if there else [],
        methods=by_method,
        statuses=statuses,
        series=series,
        in_time=_in_time(result),
        each_second=[
            (at_s, ok, other, p50_ns / 1_000, p99_ns / 1_000, max_ns / 1_000)
            for at_s, ok, other, p50_ns, p99_ns, max_ns in _measured(result)
        ],
        lateness_us=result.lateness.percentile(99) / 1_000 if result.lateness.count else 0.0,
    )


def _in_time(result: engine.Result) -> float:
    lines = _measured(result)
    return sum(line[1] for line in lines) / len(lines) if lines else result.ok_s


def _measured(result: engine.Result) -> list[Second]:
    """The engine's seconds; those of the warm-up and of the drain are left out."""
    first, last = result.warm_up_s + 0.5, result.warm_up_s + result.seconds + 0.5
    return [line for line in result.series if first < line[0] <= last]


def tiers(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """What the server's counters of caches and pages grew by."""
    grown = {}
    for name, value in after.items():
        plain = name.split("{", 1)[0]
        if not plain.endswith("_total") or not any(part in plain for part in TIERS):
            continue
        if value > before.get(name, 0.0):
            short = name.removeprefix("feedcore_").replace("_total", "").replace('"', "")
            grown[short] = value - before.get(name, 0.0)
    return grown


def grown(
    before: Mapping[str, float], after: Mapping[str, float], name: str, *labels: str
) -> float:
    """By how much the samples of that metric with all these labels grew, together."""
    return sum(
        value - before.get(sample, 0.0)
        for sample, value in after.items()
        if sample.split("{", 1)[0] == name and all(label in sample for label in labels)
    )
