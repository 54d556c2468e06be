"""Where a worker's time goes, by layer: py-spy samples it during a phase of its own; each
sample counts for the innermost frame that belongs to a layer.

    python -m feedcore_bench.layers SAMPLES.raw

prints the table of what `py-spy record --native --format raw` wrote. Sampling slows the worker:
shares are to be read, rates are not. Without py-spy there is no table.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

RATE = 200  # samples a second: more fall behind on two cores
# The first layer that a frame's text names one part of; innermost frames first.
LAYERS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("garbage collector", ("gc_collect",)),
    ("idle", ("epoll_wait", "epoll_pwait")),
    ("transport", ("transports/native", "_native/h2", "_native/grpcframe", "nghttp2")),
    ("page, compiled", ("_native/page.", "_native/draft", "_native/resident", "_native/paging",
                        "_native/ranking", "_native/merge", "_native/visibility", "_native/wire",
                        "_native/feedwire", "_native/cursor", "_native/reply",
                        "_native/cache", "_native/engagement")),
    ("Redis client", ("redis/asyncio", "redis/_parsers", "hiredis", "asyncio/streams")),
    ("batcher", ("adapters/redis/batcher",)),
    ("validation and proofs", ("adapters/cluster", "adapters/redis", "_native/idset",
                              "_native/epochs")),
    ("CQL driver", ("acsylla", "adapters/cql/driver/scylla", "cassandra/")),
    ("CQL stores", ("adapters/cql",)),
    ("services", ("feedcore/services", "resilience/")),
    ("dispatch and interceptors", ("server/dispatch", "server/interceptors", "server/handlers",
                                   "server/context", "prometheus_client", "structlog",
                                   "observe/")),
    ("event loop", ("uvloop", "loop.c", "asyncio/")),
)  # fmt: skip
OTHER = "other"


def layer_of(frames: Iterable[str]) -> str:
    """Of one sample; `frames`: innermost first."""
    for frame in frames:
        for name, parts in LAYERS:
            if any(part in frame for part in parts):
                return name
    return OTHER


def shares(raw: str) -> dict[str, float]:
    """Layer -> share of the samples that were not idle, largest first."""
    counts: Counter[str] = Counter()
    for line in raw.splitlines():
        stack, _, count = line.rpartition(" ")
        if stack and count.isdigit():
            counts[layer_of(reversed(stack.split(";")))] += int(count)
    del counts["idle"]
    total = sum(counts.values())
    return {name: count / total for name, count in counts.most_common()} if total else {}


def sampled(pid: int, seconds: float, run: Callable[[], object]) -> dict[str, float]:
    """Shares while `run` runs, which must take as long; empty without py-spy."""
    tool = shutil.which("py-spy") or shutil.which("py-spy", path=str(Path(sys.executable).parent))
    if tool is None:
        return {}
    with tempfile.TemporaryDirectory(prefix="feedcore-layers-") as folder:
        out = Path(folder) / "samples.raw"
        words = [tool, "record", "--native", "--format", "raw", "--rate", str(RATE)]
        words += ["--duration", str(max(1, int(seconds))), "--pid", str(pid), "--output", str(out)]
        with subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            run()
            process.wait()
        return shares(out.read_text(encoding="utf-8")) if out.exists() else {}


def told(found: dict[str, float]) -> str:
    """One line for people."""
    return ", ".join(f"{name} {share:.0%}" for name, share in found.items() if share >= 0.005)


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        print(told(shares(Path(argument).read_text(encoding="utf-8"))))
