"""Prints how much of each package the tests reached, from the data of `coverage run`.

Not a gate: a line that was run is not a line that was tested.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from coverage import Coverage

ROOT = Path(__file__).resolve().parent.parent
DEPTH = 2  # feedcore/adapters/cql is one line of the table


def main() -> None:
    """The table, a package a line, then all of it."""
    coverage = Coverage(config_file=str(ROOT / "pyproject.toml"))
    coverage.load()
    lines: Counter[str] = Counter()
    missed: Counter[str] = Counter()
    for file in coverage.get_data().measured_files():
        folders = Path(file).relative_to(ROOT).parent.parts
        _, statements, _, missing, _ = coverage.analysis2(file)
        for name in ("/".join(folders[: DEPTH + 1]), "all"):
            lines[name] += len(statements)
            missed[name] += len(missing)
    print(f"{'package':<36} {'lines':>7} {'missed':>7} {'reached':>8}")
    for name in sorted(lines, key=lambda one: (one == "all", one)):
        reached = 1 - missed[name] / max(1, lines[name])
        print(f"{name:<36} {lines[name]:>7,} {missed[name]:>7,} {reached:>8.1%}")


if __name__ == "__main__":
    main()
