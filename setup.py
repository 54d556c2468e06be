"""Builds the compiled modules (ext/) and the protobuf code (proto/ -> feedcore_pb).

FEEDCORE_NO_EXTENSIONS=1 skips the compiled modules: their Python twins serve instead.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from setuptools import Extension, setup

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "scripts"))


def extensions() -> list[Extension]:
    """One extension for each .pyx under ext/, named by its path."""
    if os.environ.get("FEEDCORE_NO_EXTENSIONS") == "1":
        return []
    from Cython.Build import cythonize

    ext_root = ROOT / "ext"
    modules = [
        Extension(
            ".".join(path.relative_to(ext_root).with_suffix("").parts),
            [str(path.relative_to(ROOT))],
            # no contraction: scores must be equal to the twins' to the bit, on every processor
            extra_compile_args=["-O3", "-fno-math-errno", "-ffp-contract=off"],
        )
        for path in sorted(ext_root.rglob("*.pyx"))
    ]
    return cythonize(
        modules,
        include_path=["ext"],
        compiler_directives={
            "language_level": 3,
            "boundscheck": False,
            "wraparound": False,
            "cdivision": True,
        },
    )


def packages() -> dict[str, str]:
    """Import name -> folder, for every package of the project."""
    tops = {"feedcore": "feedcore", "feedcore_server": "server", "feedcore_pb": "feedcore_pb"}
    found = {"feedcore._native": "ext/feedcore/_native"}
    for top, folder in tops.items():
        for init in sorted((ROOT / folder).rglob("__init__.py")):
            parts = init.parent.relative_to(ROOT / folder).parts
            found[".".join((top, *parts))] = str(init.parent.relative_to(ROOT))
    return found


from generate_protos import generate  # noqa: E402

generate(ROOT / "proto", ROOT / "feedcore_pb")
_packages = packages()
setup(packages=sorted(_packages), package_dir=_packages, ext_modules=extensions())
