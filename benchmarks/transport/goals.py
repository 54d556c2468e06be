"""What was wanted of the transport, and whether a run met it. From the results alone.

A goal that names another server compares both in the same round, and takes the median of the
rounds: a machine that was slow for a while was slow for both.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.transport.matrix import FULL, MAIN_SIZE, MIDDLE, ONE_BY_ONE, Row
from benchmarks.transport.results import Results

FAST, ASYNC, TLS = "feedcore fast", "feedcore async", "feedcore fast, TLS"
AIO, STATIC = "grpc.aio", "nghttpd"
PEERS = ("tonic", "grpc-go", "grpc-c++")

FAST_TIMES_AIO = 30.0
FAST_TIMES_STATIC = 0.7
FAST_TIMES_PEER = 1.0  # "not behind"
ASYNC_TIMES_AIO = 20.0
LATENCY_TIMES_AIO = 0.5
TLS_TIMES_PLAIN = 0.6
IDLE_BYTES_EACH = 24 * 1024
IDLE_CONNECTIONS = 10_000


@dataclass(frozen=True)
class Goal:
    """One line of the verdict. `met` is None where nothing was measured."""

    what: str
    wanted: str
    measured: str
    met: bool | None

    @property
    def verdict(self) -> str:
        """One word, or three."""
        return {True: "met", False: "MISSED", None: "not measured"}[self.met]


def _at_least(what: str, measured: float | None, wanted: float) -> Goal:
    if measured is None:
        return Goal(what, f">= {wanted:g}x", "", None)
    return Goal(what, f">= {wanted:g}x", f"{measured:.2f}x", measured >= wanted)


def _at_most(what: str, measured: float | None, wanted: float) -> Goal:
    if measured is None:
        return Goal(what, f"<= {wanted:g}x", "", None)
    return Goal(what, f"<= {wanted:g}x", f"{measured:.2f}x", measured <= wanted)


def best_peer(results: Results, row: Row) -> str | None:
    """The gRPC server in another language with the highest median there."""
    rates = {name: results.median(name, row, MAIN_SIZE, "replies_s") for name in PEERS}
    known = {name: rate for name, rate in rates.items() if rate is not None}
    return max(known, key=lambda name: known[name]) if known else None


def judge(results: Results) -> list[Goal]:
    """Every goal, in the order they were set."""
    found = []
    for row in (MIDDLE, FULL):
        where = f"fast handler, {row.name}, 2.5 KB"
        peer = best_peer(results, row)
        ratios = {
            f"{where}: times {AIO}": (AIO, FAST_TIMES_AIO),
            f"{where}: times {STATIC}": (STATIC, FAST_TIMES_STATIC),
            f"{where}: times the best peer ({peer or 'none'})": (peer or "", FAST_TIMES_PEER),
        }
        for what, (other, wanted) in ratios.items():
            found.append(_at_least(what, results.ratio(FAST, other, row, MAIN_SIZE), wanted))
    found.append(
        _at_least(
            f"async handler, {MIDDLE.name}, 2.5 KB: times {AIO}",
            results.ratio(ASYNC, AIO, MIDDLE, MAIN_SIZE),
            ASYNC_TIMES_AIO,
        )
    )
    for handler, server in (("fast", FAST), ("async", ASYNC)):
        found.append(
            _at_most(
                f"{handler} handler, {ONE_BY_ONE.name}, 2.5 KB: p50 latency, times {AIO}",
                results.ratio(server, AIO, ONE_BY_ONE, MAIN_SIZE, "p50_us"),
                LATENCY_TIMES_AIO,
            )
        )
    found.append(
        _at_least(
            f"fast handler, {MIDDLE.name}, 2.5 KB: TLS, times the same without",
            results.ratio(TLS, FAST, MIDDLE, MAIN_SIZE),
            TLS_TIMES_PLAIN,
        )
    )
    return [*found, _idle(results)]


def _idle(results: Results) -> Goal:
    what = f"resident memory an idle connection, {IDLE_CONNECTIONS:,} on one worker"
    wanted = f"<= {IDLE_BYTES_EACH // 1024} KB"
    for one in results.idle:
        if one["server"] == FAST:
            enough = one["connections"] >= IDLE_CONNECTIONS
            measured = f"{one['bytes_each'] / 1024:.1f} KB with {one['connections']:,}"
            return Goal(what, wanted, measured, enough and one["bytes_each"] <= IDLE_BYTES_EACH)
    return Goal(what, wanted, "", None)
