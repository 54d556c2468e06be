"""Compiles Cython modules in parallel, one process a core, with a line for each that is done.

Used by setup.py of the product and of the load generator. A module is translated and compiled only
if one of its sources is newer than what was built.

    FEEDCORE_NO_EXTENSIONS=1   nothing is compiled: Python twins serve
    FEEDCORE_DEV=1             without optimisation: quick to build, for work on the code only
    FEEDCORE_SANITIZE=1        with AddressSanitizer and UndefinedBehaviorSanitizer
    FEEDCORE_COVERAGE=1        with what a coverage-guided fuzzer needs (tests/fuzz/run.py)
"""

from __future__ import annotations

import multiprocessing
import os
import shlex
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from setuptools import Extension
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent.parent
# Where `cimport` looks: the product's modules, then the load generator's.
INCLUDES = [str(ROOT / "ext"), str(ROOT / "benchmarks" / "ext")]
# The version floor is Debian 12's; see server/transports/library.py.
NGHTTP2_FLOOR = "libnghttp2 >= 1.52"
NGHTTP2_NEEDED = "nghttp2_option_set_stream_reset_rate_limit"  # the fix of CVE-2023-44487
# Errors of both kinds end the process.
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
DIRECTIVES = {"language_level": 3, "boundscheck": False, "wraparound": False, "cdivision": True}


def nghttp2_flags() -> tuple[list[str], list[str]] | None:
    """(compile flags, link flags) from pkg-config; None, with a word, if the library is not
    usable.
    """
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


def compile_flags() -> tuple[list[str], list[str]]:
    """(compile flags, link flags) of every module."""
    # No contraction: scores must be equal to the twins' to the bit, on every processor.
    compiling = ["-O3", "-g0", "-fno-math-errno", "-ffp-contract=off"]
    linking: list[str] = []
    if os.environ.get("FEEDCORE_DEV") == "1":
        compiling += ["-O0"]
    if os.environ.get("FEEDCORE_SANITIZE") == "1":
        compiling += [*SANITIZERS, "-g", "-O1", "-fno-omit-frame-pointer"]
        linking += SANITIZERS
    if os.environ.get("FEEDCORE_COVERAGE") == "1":
        compiling += ["-fsanitize-coverage=trace-pc,trace-cmp"]
    return compiling, linking


def extensions(top: Path, base: Path, need_nghttp2: frozenset[str]) -> list[Extension]:
    """One extension for each .pyx below `top`, named by its path there, sources relative to
    `base`. Those of `need_nghttp2` (paths below `top` without suffix) are left out where the
    library is not usable.
    """
    if os.environ.get("FEEDCORE_NO_EXTENSIONS") == "1":
        return []
    compiling, linking = compile_flags()
    nghttp2 = nghttp2_flags()
    modules = []
    for path in sorted(top.rglob("*.pyx")):
        name = path.relative_to(top).with_suffix("")
        flags: tuple[list[str], list[str]] | None = ([], [])
        if str(name) in need_nghttp2:
            flags = nghttp2
        if flags is None:
            continue
        modules.append(
            Extension(
                ".".join(name.parts),
                [os.path.relpath(path, base)],
                extra_compile_args=compiling + flags[0],
                extra_link_args=linking + flags[1],
            )
        )
    return modules


_BUILDS: list[tuple[build_ext, Extension]] = []


class CompileSideBySide(build_ext):
    """`build_ext` that uses all cores and says how far it is."""

    def build_extensions(self) -> None:
        """Translates and compiles what is out of date."""
        self.check_extensions_list(self.extensions)
        # The largest first, so that no core ends up alone with one of them.
        order = sorted(self.extensions, key=lambda one: -Path(one.sources[0]).stat().st_size)
        done, total = 0, len(order)
        # Workers inherit the command as it is: it cannot be sent to them.
        forked = multiprocessing.get_context("fork")
        _BUILDS.extend((self, extension) for extension in order)
        cores = len(os.sched_getaffinity(0))
        with ProcessPoolExecutor(max_workers=cores, mp_context=forked) as pool:
            tasks = {pool.submit(_build, at): order[at].name for at in range(total)}
            for task in as_completed(tasks):
                done += 1
                name, seconds = tasks[task], task.result()
                if seconds >= 0.05:  # less: it was up to date
                    print(f"compiled {name} in {seconds:.1f} s ({done} of {total})", flush=True)


def _build(at: int) -> float:
    """One module of `_BUILDS`, in a process of its own; seconds."""
    from Cython.Build import cythonize

    begun = time.monotonic()
    command, extension = _BUILDS[at]
    (translated,) = cythonize(
        extension, include_path=INCLUDES, compiler_directives=DIRECTIVES, quiet=True
    )
    translated._needs_stub = False
    for name in ("_full_name", "_links_to_dynamic", "_file_name"):
        if hasattr(extension, name):
            setattr(translated, name, getattr(extension, name))
    command.build_extension(translated)
    return time.monotonic() - begun
