"""Takes the compiled modules from another build than the one in ext/: `pytest -p
tests.support.otherbuild` with FEEDCORE_NATIVE naming the folder, as `make test-asan` does.

Not for the usual run. It fails, and does not fall back, where the folder has no modules or others
are loaded already.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import feedcore._native

PREFIX = "feedcore._native."


def use(folder: Path) -> None:
    """Every compiled module comes from `folder` from here on."""
    loaded = [name for name in sys.modules if name.startswith(PREFIX)]
    if loaded or not any(folder.rglob("*.so")):
        raise RuntimeError(f"{folder}: no compiled modules, or too late: {loaded}")
    feedcore._native.__path__[:] = [str(folder)]


def pytest_report_header() -> str:
    """What the run is of."""
    return f"compiled modules: {feedcore._native.__path__[0]}"


if "FEEDCORE_NATIVE" in os.environ:
    use(Path(os.environ["FEEDCORE_NATIVE"]).resolve())
