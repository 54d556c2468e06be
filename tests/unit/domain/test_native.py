"""The switch: compiled modules or twins, all of one kind. What it does when one is missing:
tests/process/test_native.py.
"""

from __future__ import annotations

from feedcore import native


def test_all_come_from_one_side() -> None:
    names = set(native.__all__) - {"COMPILED", "Audience", "Selection", "Verdict"}
    modules = {getattr(native, name).__module__ for name in names}
    compiled = {name.startswith("feedcore._native.") for name in modules}
    assert compiled == {native.COMPILED}
