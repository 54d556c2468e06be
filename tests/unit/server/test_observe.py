"""Figures from histograms, trace contexts, and what may be in a log line."""

from __future__ import annotations

import json
import logging

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram

from feedcore.observe import logs, metrics, tracing

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize(
    ("cumulative", "q", "expected_ms"),
    [
        ([], 0.5, 0.0),
        ([(0.001, 0), (float("inf"), 0)], 0.5, 0.0),
        ([(0.001, 50), (0.01, 99), (0.1, 100), (float("inf"), 100)], 0.50, 1.0),
        ([(0.001, 50), (0.01, 99), (0.1, 100), (float("inf"), 100)], 0.99, 10.0),
        ([(0.001, 50), (0.01, 98), (0.1, 100), (float("inf"), 100)], 0.99, 100.0),
        ([(0.001, 0), (0.01, 0), (float("inf"), 3)], 0.5, 10.0),
    ],
)
def test_quantiles_are_upper_edges(cumulative, q: float, expected_ms: float) -> None:
    assert metrics.quantile_ms(cumulative, q) == pytest.approx(expected_ms)


def test_summary_of_a_registry() -> None:
    registry = CollectorRegistry()
    labels = ["operation", "status"]
    calls = Counter("feedcore_calls_total", "", labels, registry=registry)
    times = Histogram(
        "feedcore_call_duration_seconds", "", ["operation"], registry=registry, buckets=[0.01, 0.1]
    )
    calls.labels("GetFeed", "ok").inc(9)
    calls.labels("GetFeed", "unavailable").inc(1)
    calls.labels("Publish", "ok").inc(1)
    for _ in range(10):
        times.labels("GetFeed").observe(0.005)
    figures = metrics.summarize(registry.collect())
    assert figures.operations == [
        metrics.OperationFigures("GetFeed", 10, 1, 10.0, 10.0),
        metrics.OperationFigures("Publish", 1, 0, 0.0, 0.0),
    ]
    assert figures.started_ms == 0 and figures.processes == 0


def test_durations_counted_elsewhere_are_as_if_each_had_been_observed() -> None:
    took_s = [0.0000001, 0.0000005, 0.00003, 0.00003, 0.25, 4.0, 60.0]
    found = []
    for bulk in (False, True):
        registry = CollectorRegistry()
        times = Histogram("t", "", ["o"], registry=registry, buckets=metrics.CALL_BUCKETS_S)
        child, totals, durations = times.labels("x"), metrics.Totals(), metrics.Durations()
        for seconds in took_s:
            if bulk:
                durations.add(1, seconds)
                for _ in range(2):  # what was published is not published again
                    totals.add_durations(child, durations.counts, durations.seconds, "name")
            else:
                child.observe(seconds)
        (metric,) = registry.collect()
        found.append(
            [(one.name, one.labels, one.value) for one in metric.samples if "created" not in one[0]]
        )
    assert found[0] == found[1]


def test_a_trace_is_continued_with_a_span_of_our_own() -> None:
    trace = tracing.from_metadata({"traceparent": PARENT})
    assert trace.trace_hex == "0af7651916cd43dd8448eb211c80319c"
    assert trace.parent_id == 0xB7AD6B7169203331 and trace.sampled
    assert trace.span_id not in (0, trace.parent_id)
    again = tracing.from_metadata({"traceparent": trace.traceparent})
    assert (again.trace_id, again.parent_id) == (trace.trace_id, trace.span_id)


@pytest.mark.parametrize(
    "parent", ["", "garbage", PARENT[:-3], PARENT.replace("0af7", "zzzz"), "00-" + "0" * 32]
)
def test_a_bad_traceparent_begins_a_new_trace(parent: str) -> None:
    trace = tracing.from_metadata({"traceparent": parent})
    assert trace.trace_id and trace.parent_id == 0


def test_users_are_hashed_with_the_stores_key() -> None:
    one, other = logs.UserHash(b"k" * 32), logs.UserHash(b"o" * 32)
    assert one(7) == one(7) != one(8)
    assert one(7) != other(7)
    assert len(one(2**64 - 1)) == 2 * logs.USER_HASH_BYTES


def test_log_lines_are_json_and_carry_what_is_always_there(capsys) -> None:
    logs.configure("info", "json", role="api", worker=3)
    logs.get("calls").info("call", operation="GetFeed", duration_ms=1.5)
    logs.get("calls").debug("not written")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert len(lines) == 1
    assert lines[0].items() >= {
        ("event", "call"),
        ("level", "info"),
        ("role", "api"),
        ("worker", 3),
        ("part", "calls"),
        ("operation", "GetFeed"),
        ("duration_ms", 1.5),
    }


def test_modules_that_use_standard_logging_write_the_same_lines(capsys) -> None:
    logs.configure("info", "json", role="fanout")
    logging.getLogger("feedcore.workers.fanout").info("job %d done", 7)
    logging.getLogger("elsewhere").info("not written")
    try:
        raise KeyError("lost")
    except KeyError:
        logging.getLogger("feedcore.workers.fanout").exception("job %d failed", 8)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line["event"], line["level"]) for line in lines] == [
        ("job 7 done", "info"),
        ("job 8 failed", "error"),
    ]
    assert lines[0]["role"] == "fanout" and "KeyError: 'lost'" in lines[1]["exception"]
