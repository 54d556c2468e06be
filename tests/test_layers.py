"""Who may import whom: runs the import-linter contracts of pyproject.toml.

Not for style (tests/test_tidy.py).
"""

from __future__ import annotations

from pathlib import Path

import pytest
from importlinter import cli

ROOT = Path(__file__).resolve().parent.parent


def test_imports_flow_one_way(capsys: pytest.CaptureFixture[str]) -> None:
    code = cli.lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True)
    assert code == cli.EXIT_STATUS_SUCCESS, capsys.readouterr().out


@pytest.mark.parametrize("name", ["server", "ext", "proto", "benchmarks", "tests"])
def test_nothing_is_installed_under_a_global_name(name: str) -> None:
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    assert "feedcore_server" in setup
    assert f'"{name}":' not in setup, f"setup.py installs a package called {name}"
