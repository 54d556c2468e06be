"""Runs mypy over the product, the load generator, the planner and the scripts, under their import
names, and stubtest over the compiled modules: their stubs say what they have.

Folders are not named like the packages that they become (server is feedcore_server), so that mypy
would check them under the wrong names. Links below build/typing have the right ones; they are
made anew by each run, and need no install. Rules are in pyproject.toml. Not for tests.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LINKS = ROOT / "build" / "typing"
# Import name -> folder. A package within another one comes after it.
PACKAGES = {
    "feedcore": "feedcore",
    "feedcore._native": "ext/feedcore/_native",
    "feedcore_bench": "benchmarks/load",
    "feedcore_bench._native": "benchmarks/ext/feedcore_bench/_native",
    "feedcore_pb": "feedcore_pb",
    "feedcore_planner": "tools/planner",
    "feedcore_server": "server",
    "services_lib": "scripts/services_lib",
}
MODULES = {path.stem: path for path in sorted((ROOT / "scripts").glob("*.py"))}


def link_packages() -> None:
    """Makes build/typing, in which each package has its import name."""
    shutil.rmtree(LINKS, ignore_errors=True)
    LINKS.mkdir(parents=True)
    for name, folder in PACKAGES.items():
        package = LINKS.joinpath(*name.split("."))
        package.mkdir()
        for member in (ROOT / folder).iterdir():
            if member.suffix in (".py", ".pyi") or (member / "__init__.py").exists():
                (package / member.name).symlink_to(member)
    for path in MODULES.values():
        (LINKS / path.name).symlink_to(path)


def check_types() -> int:
    """mypy's exit code."""
    command = ["mypy"]
    command += [word for name in PACKAGES if "." not in name for word in ("-p", name)]
    command += [word for name in MODULES for word in ("-m", name)]
    return _run(command)


def check_stubs() -> int:
    """stubtest's exit code. The modules must be compiled: `make build-bench`."""
    command = ["mypy.stubtest", "--concise", "--mypy-config-file", "pyproject.toml"]
    # Cython's classes are C structs: each is a base of its own, and that is no part of a contract.
    command += ["--ignore-disjoint-bases", "--allowlist", "scripts/stubtest-allowed.txt"]
    for name in (one for one in PACKAGES if one.endswith("._native")):
        folder = ROOT / PACKAGES[name]
        for stub in sorted(folder.rglob("*.pyi")):
            command.append(".".join((name, *stub.relative_to(folder).with_suffix("").parts)))
    return _run(command)


def _run(module: list[str]) -> int:
    command = [sys.executable, "-m", *module]
    run = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    print(_with_real_paths(run.stdout), end="")
    return run.returncode


def _with_real_paths(report: str) -> str:
    """mypy's report, with the files' own paths instead of those of the links."""
    # The longest name first: feedcore/_native is not below feedcore.
    for name, folder in sorted(PACKAGES.items(), reverse=True):
        linked = LINKS.relative_to(ROOT).joinpath(*name.split("."))
        report = report.replace(f"{linked}/", f"{folder}/")
    return report.replace(f"{LINKS.relative_to(ROOT)}/", "scripts/")


if __name__ == "__main__":
    link_packages()
    sys.exit(check_types() or check_stubs())
