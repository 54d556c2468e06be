"""A small spreadsheet: named lines with formulas, evaluated from top to bottom.

Job: make the printed derivation the computation itself. A line's formula is a Python expression
over names: the inputs, the figures, the lines above it, and a few functions. Invariants: a line
names what exists already, and no name is given twice; what `Step` shows is what was computed.
Formulas are constants of this project's code: not for text that comes from outside.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from types import CodeType
from typing import Any, NamedTuple

Function = Callable[..., float]
COMMON: dict[str, Function] = {"min": min, "max": max, "ceil": math.ceil}


class Line(NamedTuple):
    """`group` is the heading it stands under; `meaning` says why, in a few words."""

    group: str
    name: str
    formula: str
    unit: str
    meaning: str


class Step(NamedTuple):
    """A line with its value and the values of the names in its formula."""

    line: Line
    value: float
    inputs: dict[str, float]


@lru_cache(maxsize=512)  # the lines of capacity.py, several times over
def _compiled(formula: str) -> CodeType:
    return compile(formula, f"<{formula}>", "eval")


def evaluate(
    lines: Iterable[Line], given: Mapping[str, float], functions: Mapping[str, Function]
) -> list[Step]:
    """One step a line. Raises NameError for a formula that names what is not there, ValueError for
    a name given twice."""
    scope: dict[str, Any] = {"__builtins__": {}, **COMMON, **functions, **given}
    steps = []
    for line in lines:
        if line.name in scope:
            raise ValueError(f"{line.name} is given twice")
        code = _compiled(line.formula)
        value = float(eval(code, scope))  # noqa: S307 - our own formulas, without builtins
        inputs = {name: scope[name] for name in code.co_names if not callable(scope[name])}
        scope[line.name] = value
        steps.append(Step(line, value, inputs))
    return steps
