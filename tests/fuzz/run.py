"""Coverage-guided fuzzing: `python -m tests.fuzz.run TARGET --seconds N`, or `make fuzz`.

libFuzzer comes with atheris (`pip install atheris`); it is guided by the basic blocks and the
comparisons of the compiled modules, which setup.py builds with FEEDCORE_COVERAGE=1, and with
FEEDCORE_SANITIZE=1, so that errors of memory are finds, too. Inputs that reach something new are
kept below build/fuzz/TARGET: each run goes on where the last one ended. A find is written to
tests/fuzz/corpus/TARGET/crash-*, where every test run replays it, and the run ends with it. Needs
gcc; the Python code of the targets themselves is not looked at.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import importlib.util
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from tests.support import otherbuild

ROOT = Path(__file__).resolve().parents[2]
CORPUS = Path(__file__).parent / "corpus"
BUILD = ROOT / "build" / "fuzz"
NATIVE = BUILD / "lib" / "feedcore" / "_native"
INPUT_MAX = 2_000  # longer ones are slow and find nothing that shorter ones do not
TIMEOUT_S = 20  # of one input: a usual one takes a few hundred microseconds with sanitizers
READY = "FEEDCORE_FUZZ_READY"  # in the environment of the process that was started anew
UserCallback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_uint8), ctypes.c_size_t)
Find = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_char_p)


def of_gcc(library: str) -> str:
    """Path of a library that gcc links."""
    command = ["gcc", f"-print-file-name={library}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def start_anew() -> None:
    """The same command with coverage and sanitizers loaded before anything else."""
    shim, source = BUILD / "coverage.so", Path(__file__).parent / "coverage.c"
    BUILD.mkdir(parents=True, exist_ok=True)
    command = ["gcc", "-O2", "-shared", "-fPIC", "-o", str(shim), str(source)]
    subprocess.run(command, check=True)
    preload = [str(shim), of_gcc("libasan.so"), of_gcc("libubsan.so")]
    environment = os.environ | {
        READY: "1",
        "LD_PRELOAD": " ".join(preload),
        "PYTHONMALLOC": "malloc",
        # The interpreter leaks by design. The shim must come first (see coverage.c). libFuzzer
        # handles the signals itself.
        "ASAN_OPTIONS": "detect_leaks=0:verify_asan_link_order=0:handle_abort=0",
    }
    arguments = [sys.executable, "-m", "tests.fuzz.run", *sys.argv[1:]]
    os.execve(sys.executable, arguments, environment)


def lib_fuzzer() -> ctypes.CDLL:
    """libFuzzer, fed by the shim."""
    spec = importlib.util.find_spec("atheris")
    if spec is None or spec.origin is None:
        sys.exit("no atheris here: .venv/bin/pip install 'atheris>=3,<4'")
    [path] = Path(spec.origin).parent.glob("core_with_libfuzzer.*.so")
    fuzzer = ctypes.CDLL(str(path))

    def find(name: bytes) -> int | None:
        return ctypes.cast(getattr(fuzzer, name.decode()), ctypes.c_void_p).value

    ctypes.CDLL(None).feedcore_coverage_start(Find(find))
    return fuzzer


def guarded(one_input: Callable[[bytes], None]) -> Callable[[object, int], int]:
    """As libFuzzer calls it: an exception ends the process, which writes the input down."""

    def run(data: object, size: int) -> int:
        try:
            one_input(ctypes.string_at(data, size))  # type: ignore[arg-type]
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os.abort()
        return 0

    return run


def main() -> None:
    """Parses arguments and fuzzes. Ends with the code of libFuzzer: 0 if nothing was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=["session", "framing"])
    parser.add_argument("--seconds", type=int, default=60)
    arguments, rest = parser.parse_known_args()
    if READY not in os.environ:
        start_anew()
    fuzzer = lib_fuzzer()
    otherbuild.use(NATIVE)
    one_input = importlib.import_module(f"tests.fuzz.{arguments.target}_target").one_input
    kept, corpus = BUILD / arguments.target, CORPUS / arguments.target
    kept.mkdir(parents=True, exist_ok=True)
    options = [
        "fuzz",
        f"-max_total_time={arguments.seconds}",
        f"-max_len={INPUT_MAX}",
        f"-timeout={TIMEOUT_S}",
        f"-artifact_prefix={corpus}{os.sep}",
        "-rss_limit_mb=3000",
        "-use_value_profile=1",
        "-print_final_stats=1",
        *rest,
        str(kept),
        str(corpus),
    ]
    count = ctypes.c_int(len(options))
    values = (ctypes.c_char_p * (len(options) + 1))(*(option.encode() for option in options), None)
    pointer = ctypes.pointer(values)
    callback = UserCallback(guarded(one_input))
    code = fuzzer.LLVMFuzzerRunDriver(ctypes.byref(count), ctypes.byref(pointer), callback)
    sys.stdout.flush()
    os._exit(code)  # libFuzzer takes an ordinary exit for a crash of the target


if __name__ == "__main__":
    main()
