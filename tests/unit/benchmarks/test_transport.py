"""The transport benchmark refuses what it should not count, and judges what it counted rightly.

That it runs at all is held by `python -m benchmarks.transport --small`, in every `make test`.
"""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.transport import chart, goals, load, matrix, report
from benchmarks.transport.__main__ import plan_cells
from benchmarks.transport.matrix import Cell, Row
from benchmarks.transport.results import Results
from benchmarks.transport.servers import contestants

PRINTED = """
finished in 2.50s, 64096.00 req/s, 155.02MB/s
requests: 128192 total, 9 started, 128192 done, 128192 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 128190 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 310.04MB (325095280) total, 472.10KB (483432) headers (space savings 95.77%), 384MB
                     min         max         mean         sd        +/- sd
time for request:      347us     12.11ms      3.75ms      1.90ms    72.95%
time for connect:        0us         0us         0us         0us     0.00%
"""
CELL = Cell("tonic", matrix.MIDDLE, 2_500)


def test_counts_of_h2load() -> None:
    counts = load.parse(PRINTED)
    assert counts == load.Counts(64_096.0, 128_192, 325_095_280, 3_750.0)
    load.check_bytes(counts, CELL)


@pytest.mark.parametrize(
    "printed",
    [
        "",
        PRINTED.replace("128192 succeeded, 0 failed", "128191 succeeded, 1 failed"),
        PRINTED.replace("0 errored", "1 errored"),
        PRINTED.replace("0 timeout", "1 timeout"),
        PRINTED.replace("0 5xx", "2 5xx"),
        re.sub(r"\d+ done, \d+ succeeded", "0 done, 0 succeeded", PRINTED),
    ],
    ids=["nothing", "failed", "errored", "timeout", "5xx", "none done"],
)
def test_a_run_with_faults_is_refused(printed: str) -> None:
    with pytest.raises(load.Refused):
        load.parse(printed)


def test_replies_without_a_message_are_refused() -> None:
    # Status 200 with trailers only: what RESOURCE_EXHAUSTED looks like to h2load.
    refusals = load.Counts(64_096.0, 128_192, 128_192 * 120, 3_750.0)
    with pytest.raises(load.Refused, match="not every reply was a full one"):
        load.check_bytes(refusals, CELL)


def sample(
    server: str, number: int, rate: float, row: Row = matrix.MIDDLE, p50: float | None = None
) -> load.Sample:
    return load.Sample(
        server, row.name, matrix.MAIN_SIZE, number, rate, 1_000, 500.0, p50, p50, 1.0, 0.5, 0.01
    )


def results(*samples: load.Sample) -> Results:
    names = dict.fromkeys(one.server for one in samples)
    return Results(
        machine={"line": "a machine & more", "tools": "tools", "date": "2026-01-01"},
        options={"rounds": 3, "seconds": 1.0, "server_core": 1, "load_core": 0, "again": 1},
        contestants=[
            {"name": name, "what": "", "version": "1", "ours": name.startswith("feedcore")}
            for name in names
        ],
        samples=list(samples),
    )


def verdicts(found: Results) -> dict[str, bool | None]:
    return {goal.what: goal.met for goal in goals.judge(found)}


def test_ratios_are_taken_within_a_round() -> None:
    # The machine was ten times slower in round 1: for both.
    rates = [(3_000.0, 96_000.0), (300.0, 9_600.0), (3_000.0, 93_000.0)]
    samples = []
    for number, (aio, fast) in enumerate(rates):
        samples += [sample(goals.AIO, number, aio), sample(goals.FAST, number, fast)]
    found = results(*samples)
    assert found.ratio(goals.FAST, goals.AIO, matrix.MIDDLE, matrix.MAIN_SIZE) == 32.0
    assert verdicts(found)["fast handler, 8x32, 2.5 KB: times grpc.aio"] is True


def test_goals_are_missed_met_or_not_measured() -> None:
    found = results(
        sample(goals.AIO, 0, 4_000, matrix.MIDDLE),
        sample(goals.STATIC, 0, 200_000),
        sample("tonic", 0, 90_000),
        sample("grpc-go", 0, 50_000),
        sample(goals.FAST, 0, 119_999),
        sample(goals.ASYNC, 0, 80_000),
        sample(goals.AIO, 0, 4_000, matrix.ONE_BY_ONE, 250.0),
        sample(goals.FAST, 0, 9_000, matrix.ONE_BY_ONE, 125.0),
        sample(goals.ASYNC, 0, 7_000, matrix.ONE_BY_ONE, 126.0),
    )
    found.idle = [{"server": goals.FAST, "connections": 10_000, "bytes_each": 24 * 1024.0}]
    got = verdicts(found)
    assert got["fast handler, 8x32, 2.5 KB: times grpc.aio"] is False
    assert got["fast handler, 8x32, 2.5 KB: times nghttpd"] is False
    assert got["fast handler, 8x32, 2.5 KB: times the best peer (tonic)"] is True
    assert got["fast handler, 16x64, 2.5 KB: times grpc.aio"] is None
    assert got["async handler, 8x32, 2.5 KB: times grpc.aio"] is True
    assert got["fast handler, 1x1, 2.5 KB: p50 latency, times grpc.aio"] is True
    assert got["async handler, 1x1, 2.5 KB: p50 latency, times grpc.aio"] is False
    assert got["fast handler, 8x32, 2.5 KB: TLS, times the same without"] is None
    assert got["resident memory an idle connection, 10,000 on one worker"] is True
    found.idle[0]["connections"] = 9_999
    assert verdicts(found)["resident memory an idle connection, 10,000 on one worker"] is False


def test_reports_are_made_of_the_json_alone(tmp_path: Path) -> None:
    found = results(
        sample(goals.AIO, 0, 4_000), sample(goals.FAST, 0, 123_456), sample(goals.AIO, 1, 4_100)
    )
    found.lacking["tonic"] = "a Rust toolchain"
    text, data, picture = report.write(found, tmp_path, "run")
    again = Results.load(data)
    assert again == found
    assert report.markdown(again) == text.read_text()
    assert "**tonic**: not built: a Rust toolchain" in text.read_text()
    root = ElementTree.parse(picture).getroot()
    words = ["".join(part.itertext()) for part in root.iter() if part.tag.endswith("text")]
    assert "123,456" in words and "a machine & more, 2026-01-01" in words
    assert chart.draw(again) == picture.read_text()


def test_the_full_plan_fits_its_time() -> None:
    groups = plan_cells(contestants(), matrix.ROWS, matrix.SIZES)
    cells = [cell for group in groups for cell in group]
    assert len(set(cells)) == len(cells)
    assert matrix.estimate_s(len(cells), 5, 3.0) < 45 * 60
    for row in (matrix.ONE_BY_ONE, matrix.MIDDLE, matrix.FULL):
        for size in matrix.SIZES:
            there = {cell.server for cell in cells if (cell.row, cell.size) == (row, size)}
            assert {goals.FAST, goals.ASYNC, goals.AIO, goals.STATIC, *goals.PEERS} <= there
    assert Cell(goals.TLS, matrix.MIDDLE, matrix.MAIN_SIZE) in cells
