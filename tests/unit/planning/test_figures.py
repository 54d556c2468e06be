"""The shipped figures say where they come from; a file that is not right is refused."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

from feedcore.errors import InvalidField
from feedcore_planner.capacity import CONSTANTS, LINES
from feedcore_planner.figures import Figures, parse, shipped
from feedcore_planner.workload import BOUNDS

ROOT = Path(__file__).resolve().parents[3]
ROW = {
    "value": 1.0,
    "unit": "x",
    "basis": "assumed",
    "meaning": "m",
    "source": "s",
    "command": "",
}


def text(**changes: Any) -> str:
    return json.dumps({"a": {**ROW, **changes}})


def test_each_figure_is_used_by_a_formula_or_bound() -> None:
    formulas = " ".join(line.formula for line in LINES)
    names = set(re.findall(r"[a-z]\w+", formulas))
    assert {figure.name for figure in shipped()} <= names
    known = {line.name for line in LINES} | BOUNDS.keys() | CONSTANTS.keys()
    assert not known & {figure.name for figure in shipped()}


def test_measured_figures_name_a_result_and_a_command_that_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    measured = [figure for figure in shipped() if figure.basis == "measured"]
    assert measured
    for figure in measured:
        result = re.search(r"[\w.-]+\.(md|json)", figure.source)
        assert result and (ROOT / "benchmarks" / "results" / result[0]).is_file(), figure
    for command in {figure.command for figure in shipped() if figure.command}:
        if command.startswith("make "):
            assert re.search(rf"^{command.split()[1]}:", makefile, re.MULTILINE), command
        else:
            module = command.split()[2]
            assert importlib.util.find_spec(module), command


def test_a_result_changes_the_plan_without_a_change_of_code() -> None:
    rows = {figure.name: figure._asdict() for figure in shipped()}
    for row in rows.values():
        row.pop("name")
    rows["warm_loads_per_core"] = {
        **rows["warm_loads_per_core"],
        "value": 15_500,
        "basis": "measured",
        "command": "make bench",
    }
    assert parse(json.dumps(rows), shipped())["warm_loads_per_core"] == 15_500


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("[]", "figures: list; a JSON object"),
        ("{", "figures: "),
        ('{"a": 1}', r"figures\.a: int; exactly value, unit"),
        ('{"a": {"value": 1}}', r"figures\.a: value; exactly"),
        (text(value=0), r"figures\.a\.value: 0; a number above 0"),
        (text(value=-1), r"figures\.a\.value: -1; "),
        (text(value=True), r"figures\.a\.value: True; "),
        (text(value="1"), r"figures\.a\.value: '1'; "),
        (text(value=float("nan")), r"figures\.a\.value: nan; "),
        (text(value=1, unit="share"), r"figures\.a\.value: 1; a share: below 1"),
        (text(basis="hoped"), r"figures\.a\.basis: 'hoped'; one of measured"),
        (text(basis="measured"), r"figures\.a\.command: empty; "),
    ],
)
def test_a_file_that_is_not_right_is_refused(given: str, words: str) -> None:
    with pytest.raises(InvalidField, match=words):
        parse(given)


def test_names_and_units_are_the_shipped_ones() -> None:
    known: Figures = parse(text())
    with pytest.raises(InvalidField, match=r"figures\.a: missing"):
        parse("{}", known)
    with pytest.raises(InvalidField, match=r"figures\.b: unknown"):
        parse(json.dumps({"a": ROW, "b": ROW}), known)
    with pytest.raises(InvalidField, match=r"figures\.a\.unit: 'y'; 'x'"):
        parse(text(unit="y"), known)
