"""Adapters are what their ports say, to the type checker: names, parameters, results."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy")
ROOT = Path(__file__).resolve().parents[2]


def test_every_adapter_is_its_port() -> None:
    options = "--config-file= --explicit-package-bases --ignore-missing-imports".split()
    command = [sys.executable, "-m", "mypy", *options, "--follow-imports=silent"]
    checked = subprocess.run(
        [*command, "--cache-dir=build/mypy-ports", "tests/contract/port_typing.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
