"""The table of differences names only cases that exist."""

from __future__ import annotations

import re
import subprocess
import sys

from tests.conformance.differences import DIFFERENCES
from tests.test_tidy import ROOT

COLLECT = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]


def test_every_pinned_difference_has_its_case() -> None:
    listed = subprocess.run(
        [*COLLECT, "tests/conformance/test_grpcio.py", "tests/conformance/test_native.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    cases = set(re.findall(r"::test_(.+)$", listed, re.MULTILINE))
    assert len(cases) > 100
    gone = sorted(set(DIFFERENCES) - cases)
    assert not gone, "no such case: " + ", ".join(gone)


def test_every_pinned_difference_has_a_reason() -> None:
    assert all(pinned.why and pinned.transport for pinned in DIFFERENCES.values())
