"""Builds the load generator, a package of its own: production installs carry none of it.

It compiles against the product's sources, so it is built in a checkout (`make build-bench`).
"""

from __future__ import annotations

import sys
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "scripts"))

from compiling import CompileSideBySide, extensions  # noqa: E402

NEED_NGHTTP2 = frozenset({"feedcore_bench/_native/h2call", "feedcore_bench/_native/h2client"})

setup(
    packages=["feedcore_bench", "feedcore_bench._native"],
    package_dir={"feedcore_bench": "load", "feedcore_bench._native": "ext/feedcore_bench/_native"},
    ext_modules=extensions(HERE / "ext", HERE, NEED_NGHTTP2),
    cmdclass={"build_ext": CompileSideBySide},
)
