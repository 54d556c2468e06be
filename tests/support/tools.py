"""Tools that a test needs and a machine may lack: a loud skip, or a failure where CI=true.

Not for tools that the project itself needs: scripts/bootstrap.sh installs those.
"""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest

IN_CI = os.environ.get("CI") == "true"  # there, a test that does not run proves nothing


def lacking(reason: str) -> NoReturn:
    """Skips the test, or fails it in continuous integration. `reason` says how to get the tool."""
    if IN_CI:
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def tool(name: str, how: str) -> str:
    """Path of a program; `how` is the command that installs it."""
    found = shutil.which(name)
    if found is None:
        lacking(f"{name} is not installed; get it with: {how}")
    return found
