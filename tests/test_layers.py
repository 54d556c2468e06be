"""Who may import whom: runs the import-linter contracts of pyproject.toml.

Not for style (tests/test_tidy.py).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def test_imports_flow_one_way() -> None:
    # In a process of its own: the linter sets up logging and switches off the loggers there are.
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("name", ["server", "ext", "proto", "benchmarks", "tests"])
def test_nothing_is_installed_under_a_global_name(name: str) -> None:
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    assert "feedcore_server" in setup
    assert f'"{name}":' not in setup, f"setup.py installs a package called {name}"
