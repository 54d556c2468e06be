"""The wire contract documents itself: every method, field and enum value has a comment above it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PROTO = Path(__file__).resolve().parents[2] / "proto"
DECLARES = re.compile(
    r"^\s+(?:rpc \w+\(|(?:repeated |optional )?[\w.<>, ]+ \w+ = \d+;|[A-Z_0-9]+ = \d+;)"
)
# The zero value of an enum that must be given says nothing beyond its name.
SELF_EXPLAINING = re.compile(r"^\s+[A-Z_]+_UNSPECIFIED = 0;")


@pytest.mark.parametrize("path", sorted(PROTO.rglob("*.proto")), ids=lambda path: path.name)
def test_everything_declared_has_a_comment(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    bare = [
        f"{path.name}:{number}: {line.strip()}"
        for number, line in enumerate(lines, start=1)
        if DECLARES.match(line)
        and not SELF_EXPLAINING.match(line)
        and not lines[number - 2].strip().startswith("//")
    ]
    assert not bare, "\n".join(bare)
