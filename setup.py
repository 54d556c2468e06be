"""Builds the compiled modules (ext/) and the protobuf code (proto/ -> feedcore_pb).

FEEDCORE_NO_EXTENSIONS=1 skips the compiled modules: their Python twins serve instead. The modules
of the native gRPC transport are skipped, with a word, where libnghttp2 is missing or too old:
grpc.aio carries calls then. FEEDCORE_SANITIZE=1 builds everything with AddressSanitizer and
UndefinedBehaviorSanitizer, FEEDCORE_COVERAGE=1 with what a fuzzer needs (tests/fuzz/run.py).
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "scripts"))


# Modules that need libnghttp2. Their version floor: Debian 12's; see server/transports/library.py.
NGHTTP2_MODULES = frozenset({"fastfeed", "h2", "h2call", "h2client", "h2head", "h2stream"})
NGHTTP2_FLOOR = "libnghttp2 >= 1.52"
NGHTTP2_NEEDED = "nghttp2_option_set_stream_reset_rate_limit"  # the fix of CVE-2023-44487
# What FEEDCORE_SANITIZE=1 builds with. Errors of both kinds end the process.
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]


def nghttp2_flags() -> tuple[list[str], list[str]] | None:
    """(compile flags, link flags) from pkg-config; None, with a word, if the library is not
    usable."""
    try:
        subprocess.run(["pkg-config", "--exists", "--print-errors", NGHTTP2_FLOOR], check=True)
        flags = [
            shlex.split(subprocess.check_output(["pkg-config", which, "libnghttp2"], text=True))
            for which in ("--cflags", "--libs")
        ]
        source = f"#include <nghttp2/nghttp2.h>\nvoid *needed = (void *){NGHTTP2_NEEDED};\n"
        check = [os.environ.get("CC", "cc"), "-fsyntax-only", "-x", "c", *flags[0], "-"]
        subprocess.run(check, input=source, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(
            f"no native gRPC transport: {error}; it needs {NGHTTP2_FLOOR} with its headers"
            " (Debian: libnghttp2-dev) and pkg-config",
            file=sys.stderr,
        )
        return None
    return flags[0], flags[1]


def extensions() -> list[Extension]:
    """One extension for each .pyx under ext/, named by its path."""
    if os.environ.get("FEEDCORE_NO_EXTENSIONS") == "1":
        return []
    from Cython.Build import cythonize

    ext_root = ROOT / "ext"
    nghttp2 = nghttp2_flags()
    # no contraction: scores must be equal to the twins' to the bit, on every processor
    compile_args = ["-O3", "-g0", "-fno-math-errno", "-ffp-contract=off"]
    link_args = []
    if os.environ.get("FEEDCORE_SANITIZE") == "1":
        compile_args += [*SANITIZERS, "-g", "-O1", "-fno-omit-frame-pointer"]
        link_args += SANITIZERS
    if os.environ.get("FEEDCORE_COVERAGE") == "1":
        compile_args += ["-fsanitize-coverage=trace-pc,trace-cmp"]
    modules = []
    for path in sorted(ext_root.rglob("*.pyx")):
        needs_nghttp2 = path.stem in NGHTTP2_MODULES
        if needs_nghttp2 and nghttp2 is None:
            continue
        modules.append(
            Extension(
                ".".join(path.relative_to(ext_root).with_suffix("").parts),
                [str(path.relative_to(ROOT))],
                extra_compile_args=compile_args + (nghttp2[0] if needs_nghttp2 else []),
                extra_link_args=link_args + (nghttp2[1] if needs_nghttp2 else []),
            )
        )
    return cythonize(
        modules,
        nthreads=len(os.sched_getaffinity(0)),
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
    tops = {
        "feedcore": "feedcore",
        "feedcore_server": "server",
        "feedcore_pb": "feedcore_pb",
        "feedcore_bench": "benchmarks/load",
    }
    found = {"feedcore._native": "ext/feedcore/_native"}
    for top, folder in tops.items():
        for init in sorted((ROOT / folder).rglob("__init__.py")):
            parts = init.parent.relative_to(ROOT / folder).parts
            found[".".join((top, *parts))] = str(init.parent.relative_to(ROOT))
    return found


from generate_protos import generate  # noqa: E402

generate(ROOT / "proto", ROOT / "feedcore_pb")
_packages = packages()
setup(
    packages=sorted(_packages),
    package_dir=_packages,
    package_data={
        "feedcore.planning": ["figures.json"],
        "feedcore.adapters.cql": ["migrations/*.cql"],
    },
    ext_modules=extensions(),
)
