"""What one core, one item and one node are worth: every figure with unit, basis, source, command.

Job: read figures.json, which ships with the package so that a benchmark's run can replace values
without a change of code, and refuse a file that lacks a figure, has an unknown one, or a value
that is not a positive number. Invariants: `measured` names a result and the command that
reproduces it; whatever is not measured says so. Not for inputs of a plan: workload.py.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from importlib import resources
from typing import Any, NamedTuple

from feedcore.errors import InvalidField

# measured: by a benchmark of this project. goal: what that benchmark must reach. assumed: what is
# known of engines and people elsewhere. defined: a decision, or a constant of the code.
BASES = ("measured", "goal", "assumed", "defined")
FIELDS = ("value", "unit", "basis", "meaning", "source", "command")
SHIPPED = "figures.json"


class Figure(NamedTuple):
    """One number. `command` reproduces it, from the project's root; empty where nothing does."""

    name: str
    value: float
    unit: str
    basis: str
    meaning: str
    source: str
    command: str


class Figures:
    """All figures by name; `figures["utilisation"]` is the value."""

    def __init__(self, figures: dict[str, Figure]) -> None:
        self._figures = figures

    def __getitem__(self, name: str) -> float:
        return self._figures[name].value

    def __iter__(self) -> Iterator[Figure]:
        return iter(self._figures.values())

    def values(self) -> dict[str, float]:
        """Value by name."""
        return {figure.name: figure.value for figure in self}

    def replace(self, **changes: float) -> Figures:
        """A copy with other values, taken as defined."""
        changed = dict(self._figures)
        for name, value in changes.items():
            changed[name] = checked(changed[name]._replace(value=value, basis="defined"))
        return Figures(changed)


def checked(figure: Figure) -> Figure:
    """The figure itself. Raises InvalidField."""
    field = f"figures.{figure.name}"
    number = isinstance(figure.value, int | float) and not isinstance(figure.value, bool)
    if not number or not math.isfinite(figure.value) or figure.value <= 0:
        raise InvalidField(f"{field}.value", repr(figure.value), "a number above 0")
    if figure.unit == "share" and figure.value >= 1:
        raise InvalidField(f"{field}.value", f"{figure.value:g}", "a share: below 1")
    if figure.basis not in BASES:
        raise InvalidField(f"{field}.basis", repr(figure.basis), f"one of {', '.join(BASES)}")
    if figure.basis == "measured" and not figure.command:
        raise InvalidField(f"{field}.command", "empty", "the command that measures it")
    return figure


def parse(text: str, known: Figures | None = None) -> Figures:
    """Figures of a JSON object: name -> {value, unit, basis, meaning, source, command}.

    With `known` the names and units must be its own. Raises InvalidField.
    """
    try:
        rows = json.loads(text)
    except ValueError as error:
        raise InvalidField("figures", str(error), "a JSON object") from error
    if not isinstance(rows, dict):
        raise InvalidField("figures", type(rows).__name__, "a JSON object")
    figures = {name: _figure(name, row) for name, row in rows.items()}
    if known is not None:
        units = {figure.name: figure.unit for figure in known}
        for name in sorted(units.keys() ^ figures.keys()):
            seen = "missing" if name in units else "unknown"
            raise InvalidField(f"figures.{name}", seen, f"exactly the names of {SHIPPED}")
        for figure in figures.values():
            if figure.unit != units[figure.name]:
                raise InvalidField(
                    f"figures.{figure.name}.unit", repr(figure.unit), repr(units[figure.name])
                )
    return Figures(figures)


def _figure(name: str, row: Any) -> Figure:
    if not isinstance(row, dict) or set(row) != set(FIELDS):
        seen = ", ".join(row) if isinstance(row, dict) else type(row).__name__
        raise InvalidField(f"figures.{name}", seen or "empty", f"exactly {', '.join(FIELDS)}")
    return checked(Figure(name, **row))


def shipped() -> Figures:
    """The figures that come with the package."""
    return parse(resources.files(__package__).joinpath(SHIPPED).read_text(encoding="utf-8"))
