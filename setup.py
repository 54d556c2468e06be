"""Builds the compiled modules (ext/) and the protobuf code (proto/ -> feedcore_pb).

The modules of the native gRPC transport are skipped, with a word, where libnghttp2 is missing or
too old: grpc.aio carries calls then. scripts/compiling.py has the environment variables.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "scripts"))

from compiling import CompileSideBySide, extensions  # noqa: E402
from generate_protos import generate  # noqa: E402

NEED_NGHTTP2 = frozenset(
    f"feedcore/_native/{name}"
    for name in ("feed/fastfeed", "http2/guarded", "http2/h2", "http2/h2head", "http2/h2stream")
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


def requirements() -> list[str]:
    """What an installation needs. Generated code refuses a grpcio or protobuf that is older than
    the compiler that made it, so their lower bounds are read from that code.
    """
    made = ROOT / "feedcore_pb" / "v1"
    grpc = _found(r"GRPC_GENERATED_VERSION = '([\d.]+)'", made / "feed_pb2_grpc.py")
    protobuf = _found(r"# Protobuf Python Version: ([\d.]+)", made / "feed_pb2.py")
    return [
        f"grpcio>={grpc},<2",
        f"grpcio-health-checking>={grpc},<2",
        f"grpcio-reflection>={grpc},<2",
        f"grpcio-status>={grpc},<2",
        "googleapis-common-protos>=1.66,<2",
        f"protobuf>={protobuf},<{int(protobuf.split('.')[0]) + 1}",
        "uvloop>=0.20,<1",
        "click>=8.1,<9",
        "rich>=13.7,<16",
        "pydantic>=2.8,<3",
        "prometheus-client>=0.20,<1",
        "structlog>=25.1",
        "opentelemetry-api>=1.25,<2",
    ]


def _found(pattern: str, path: Path) -> str:
    found = re.search(pattern, path.read_text(encoding="utf-8"))
    if found is None:
        raise SystemExit(f"{path}: no {pattern}")
    return found[1]


generate(ROOT / "proto", ROOT / "feedcore_pb")
PACKAGES = packages()
setup(
    packages=sorted(PACKAGES),
    package_dir=PACKAGES,
    include_package_data=False,
    package_data={
        "": ["*.pyi", "py.typed"],
        "feedcore.adapters.cql.schema": ["migrations/*.cql"],
    },
    install_requires=requirements(),
    ext_modules=extensions(ROOT / "ext", ROOT, NEED_NGHTTP2),
    cmdclass={"build_ext": CompileSideBySide},
)
