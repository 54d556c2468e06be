"""The switch between compiled modules and twins, in new interpreters: never mixed, and never
silently.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

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
