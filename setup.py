"""Builds the compiled modules (ext/) and the protobuf code (proto/ -> feedcore_pb).

The modules of the native gRPC transport are skipped, with a word, where libnghttp2 is missing or
too old: grpc.aio carries calls then. scripts/compiling.py has the environment variables.
"""

from __future__ import annotations

import sys
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "scripts"))

from compiling import CompileSideBySide, extensions  # noqa: E402
from generate_protos import generate  # noqa: E402

NEED_NGHTTP2 = frozenset(
    f"feedcore/_native/{name}"
    for name in ("feed/fastfeed", "http2/h2", "http2/h2head", "http2/h2stream")
)


def packages() -> dict[str, str]:
    """Import name -> folder, for every package of the product."""
    tops = {
        "feedcore": "feedcore",
        "feedcore._native": "ext/feedcore/_native",
        "feedcore_server": "server",
        "feedcore_pb": "feedcore_pb",
    }
    found = {}
    for top, folder in tops.items():
        for init in sorted((ROOT / folder).rglob("__init__.py")):
            parts = init.parent.relative_to(ROOT / folder).parts
            found[".".join((top, *parts))] = str(init.parent.relative_to(ROOT))
    return found


generate(ROOT / "proto", ROOT / "feedcore_pb")
PACKAGES = packages()
setup(
    packages=sorted(PACKAGES),
    package_dir=PACKAGES,
    package_data={"feedcore.adapters.cql.schema": ["migrations/*.cql"]},
    ext_modules=extensions(ROOT / "ext", ROOT, NEED_NGHTTP2),
    cmdclass={"build_ext": CompileSideBySide},
)
