"""The switch: compiled modules or twins, all of one kind, and never silently."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from feedcore import native

PRINT = "from feedcore import native; print(native.COMPILED, native.U64Set.__module__)"
HIDE = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name == "feedcore._native.codecs.wire":
            raise ImportError("no wire")
sys.meta_path.insert(0, Hidden())
"""


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )


def test_forbidden_extensions_are_not_loaded() -> None:
    done = run(PRINT, FEEDCORE_NO_EXTENSIONS="1")
    assert done.stdout.split() == ["False", "feedcore.domain.idset"]
    assert done.stderr == ""


def test_one_missing_module_makes_all_twins_with_one_warning() -> None:
    pytest.importorskip("feedcore._native.codecs.wire", reason="compiled modules are not built")
    done = run(HIDE + PRINT, FEEDCORE_NO_EXTENSIONS="0")
    assert done.stdout.split() == ["False", "feedcore.domain.idset"]
    assert done.stderr.count("RuntimeWarning") == 1
    assert "compiled modules are missing" in done.stderr


def test_all_come_from_one_side() -> None:
    names = set(native.__all__) - {"COMPILED", "Audience", "Selection", "Verdict"}
    modules = {getattr(native, name).__module__ for name in names}
    compiled = {name.startswith("feedcore._native.") for name in modules}
    assert compiled == {native.COMPILED}
