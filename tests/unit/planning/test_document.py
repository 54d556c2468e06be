"""docs/capacity.md says what the code says; numbers are printed as people write them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from feedcore.errors import InvalidField
from feedcore_planner import document
from feedcore_planner.capacity import plan
from feedcore_planner.figures import shipped
from feedcore_planner.workload import DESIGN

CAPACITY = Path(__file__).resolve().parents[3] / "docs" / "capacity.md"


def test_the_document_is_what_the_code_computes() -> None:
    text = CAPACITY.read_text(encoding="utf-8")
    assert text == document.rewritten(text, shipped()), (
        "run: .venv/bin/feedcore plan --rewrite docs/capacity.md"
    )


def test_another_figure_makes_another_document() -> None:
    text = CAPACITY.read_text(encoding="utf-8")
    other = document.rewritten(text, shipped().replace(store_writes_per_core=25_000.0))
    assert other != text
    assert document.rewritten(other, shipped()) == text


def test_missing_and_unknown_marks_are_refused() -> None:
    text = CAPACITY.read_text(encoding="utf-8")
    for broken in (
        text.replace("<!-- plan:sweep -->", ""),
        text.replace("plan:sweep", "plan:sweeps"),
        text + "<!-- plan:sweep -->\n<!-- end -->",
    ):
        with pytest.raises(InvalidField, match="marks of the document"):
            document.rewritten(broken, shipped())


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0, "nodes", "0 nodes"),
        (7, "nodes", "7 nodes"),
        (27.103, "nodes", "27.1 nodes"),
        (0.17184, "s", "0.172 s"),
        (999, "posts/s", "999 posts/s"),
        (999.6, "posts/s", "1 K posts/s"),
        (50_000, "loads/s", "50 K loads/s"),
        (51_840_000_000, "deliveries/day", "51.8 B deliveries/day"),
        (38.12e12, "bytes", "38.1 TB"),
        (999_999, "bytes", "1 MB"),
        (20, "bytes", "20 B"),
        (1.25e9, "bytes/s", "1.25 GB/s"),
        (4.48e15, "nodes", "4,480 T nodes"),
        (math.inf, "x", "never x"),
    ],
)
def test_quantities(value: float, unit: str, text: str) -> None:
    assert document.quantity(value, unit) == text


@pytest.mark.parametrize(
    ("scale", "text"), [(0.0369, "0.0369x"), (1, "1x"), (11.06, "11.1x"), (1512.0, "1,510x")]
)
def test_multiples(scale: float, text: str) -> None:
    assert document.times(scale) == text


def test_the_table_has_a_column_a_scale_and_names_the_first_bottleneck() -> None:
    rows = document.plan_rows([plan(DESIGN, shipped(), scale) for scale in (1, 10)], shipped())
    assert rows[0] == ["", "1x", "10x"]
    assert all(len(row) == 3 for row in rows)
    assert ["daily users", "200 M", "2 B"] in rows
    assert any(row[0] == "**first bottleneck**" for row in rows)


def test_what_matters_most_is_on_top() -> None:
    head, *rows = document.sensitivity_rows(DESIGN, shipped())
    assert head[3:] == ["cores if half", "cores if twice"]
    changes = [max(abs(int(cell.removesuffix(" %"))) for cell in row[3:]) for row in rows]
    assert changes == sorted(changes, reverse=True) and changes[0] > 0
    assert {row[2] for row in rows} <= {"goal", "assumed"}
    writes = next(row for row in rows if row[0] == "store_writes_per_core")
    assert int(writes[3].removesuffix(" %")) > 0 > int(writes[4].removesuffix(" %"))


def test_the_dearest_point_has_the_longest_bar() -> None:
    curve = document.sweep(DESIGN, shipped())
    bars = {point.threshold: len(document.bar(point, curve)) for point in curve.points}
    assert max(bars.values()) == document.BAR_CELLS
    assert min(bars, key=lambda threshold: bars[threshold]) == curve.cheapest.threshold
