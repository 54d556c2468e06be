"""One run: which scenarios, with what options, the table at the end.

Invariants: a scenario that fails is named with its reason and the others go on; wrong answers of
any scenario make the run fail, missed speed goals do not.
"""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import grpc
import psutil

from feedcore_bench import live, scenarios
from feedcore_bench.drive import DISTURBED, Bench, Options
from feedcore_bench.results import Results
from feedcore_bench.server import Series
from feedcore_bench.world import ROOT, Echo

Scenario = Callable[[Bench], None]

# In the order of the table of goals.
SCENARIOS: dict[str, Scenario] = {
    "hot": scenarios.hot,
    "mixed": live.mixed,
    "warm": scenarios.warm,
    "cold": scenarios.cold,
    "stampede": live.stampede,
    "visible": live.visible,
    "fanout": live.fanout,
    "overload": live.overload,
    "memory": scenarios.memory,
    "soak": live.soak,
    "workers": scenarios.workers,
    "size": scenarios.size,
    "ceiling": scenarios.ceiling,
}
# What the tiny run takes: everything that judges answers, little that only measures.
TINY = ("hot", "mixed", "warm", "cold", "stampede", "visible", "overload")
CLUSTER = ("hot", "mixed", "warm", "cold", "visible", "fanout")
TINY_OF = {"embedded": TINY, "cluster": CLUSTER}
# Tables take some thousand rows a second on one small node: worlds are smaller than the embedded.
CLUSTER_SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"users": 120, "scale": 0.04, "window_users": 40, "posts_per_user": 1.0},
    "small": {"users": 1_200, "scale": 0.04, "window_users": 250, "posts_per_user": 1.5},
    "full": {"users": 1_200, "scale": 0.04, "window_users": 250, "posts_per_user": 1.5},
}


def cores() -> tuple[int, int]:
    """(of the server, of the load generator): the first two that this process may use."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[0], allowed[-1]


def options_of(
    size: str,
    seed: int,
    users: int = 0,
    seconds: float = 0.0,
    graph: str = "",
    profile: str = "embedded",
) -> Options:
    """`size`: tiny, small or full; 0: what belongs to it."""
    server_core, load_core = cores()
    presets: dict[str, dict[str, Any]] = {
        "tiny": {
            "seconds": 0.5, "warm_up_s": 0.2, "users": 400, "scale": 0.04, "window_users": 200,
            "soak_s": 2.0, "again": 0, "sizes": (400,), "full": False, "tiny": True,
        },
        "small": {
            "seconds": 3.0, "warm_up_s": 1.0, "users": 2_000, "scale": 0.2, "window_users": 2_000,
            "soak_s": 12.0, "again": 0, "sizes": (10_000,), "full": False,
        },
        "full": {
            "seconds": 20.0, "warm_up_s": 3.0, "users": 20_000, "scale": 1.0,
            "window_users": 5_000, "soak_s": 600.0, "again": 1,
            "sizes": (10_000, 100_000, 1_000_000),
            "full": True,
        },
    }  # fmt: skip
    chosen = presets[size] | (CLUSTER_SIZES[size] if profile == "cluster" else {})
    chosen["users"] = users or chosen["users"]
    chosen["seconds"] = seconds or chosen["seconds"]
    return Options(
        seed=seed, graph=graph, server_core=server_core, load_core=load_core, profile=profile,
        **chosen,
    )  # fmt: skip


def describe(options: Options, names: Sequence[str]) -> Results:
    """Results without anything measured."""
    processor = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            processor = line.split(":", 1)[1].strip()
            break
    memory = psutil.virtual_memory().total / 2**30
    line = f"{processor}, {os.cpu_count()} cores, {memory:.0f} GB, Linux {platform.release()}"
    machine = {
        "date": time.strftime("%Y-%m-%d"),
        "line": line,
        "commit": _commit(),
        "versions": f"Python {platform.python_version()}, grpcio {grpc.__version__}",
        "load before": " ".join(f"{one:.2f}" for one in os.getloadavg()),
    }
    return Results(machine, {**asdict(options), "scenarios": list(names)})


def _commit() -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False
        ).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + (" with changes" if changed else "")


def run(
    names: Sequence[str],
    options: Options,
    echo: Echo,
    tell: Callable[[str, Series], None],
) -> Results:
    """Runs the scenarios in their order."""
    results = describe(options, names)
    known, bench = _bench(options, results, echo, tell)
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {options.load_core})
    try:
        for name in [one for one in known if one in names or not names]:
            if options.tiny and not names and name not in TINY_OF[options.profile]:
                continue
            began = time.perf_counter()
            try:
                known[name](bench)
            except (RuntimeError, OSError, grpc.RpcError) as error:
                results.failures[name] = f"{type(error).__name__}: {error}"
                echo(f"{name} failed: {error}")
            echo(f"{name}: {time.perf_counter() - began:.1f} s")
    finally:
        os.sched_setaffinity(0, before)
    _judge(bench, results)
    busiest = max((phase.series.mean_others() for phase in results.phases), default=0.0)
    if busiest > DISTURBED:
        results.note(
            "machine",
            f"not quiet: others used up to {busiest:.2f} cores while a phase ran; the table of each"
            " scenario has it by phase",
        )
    results.machine["load after"] = " ".join(f"{one:.2f}" for one in os.getloadavg())
    return results


def scenarios_of(profile: str) -> list[str]:
    """Their names."""
    if profile == "cluster":
        return list(CLUSTER)
    return list(SCENARIOS)


def _bench(
    options: Options, results: Results, echo: Echo, tell: Callable[[str, Series], None]
) -> tuple[dict[str, Any], Bench]:
    """The profile's scenarios, and what they share. Raises RuntimeError without engines."""
    if options.profile == "embedded":
        return SCENARIOS, Bench(options, results, echo, tell)
    from feedcore_bench import cluster  # needs the engines' client libraries

    return cluster.SCENARIOS, cluster.ClusterBench(options, results, echo, tell)


def _judge(bench: Bench, results: Results) -> None:
    """What the checkers found, into the results."""
    checked = 0
    for scenario, checker in bench.checkers:
        checked += checker.checked
        for what, count in checker.counts.items():
            name = f"{scenario}: {what}"
            results.wrong_counts[name] = results.wrong_counts.get(name, 0) + count
        results.wrong += [{"scenario": scenario, **asdict(one)} for one in checker.wrong]
    results.machine["pages judged"] = f"{checked:,}"
