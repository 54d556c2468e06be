"""Style as a test: what a reader should never have to remember. The lists of exceptions may only
shrink.

Not for what ruff finds (`make lint`), nor for who may import whom (tests/test_layers.py).
"""

from __future__ import annotations

import ast
import builtins
import functools
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
COLUMNS_MAX = 100
FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 600

# Exceptions: path -> reason. A test fails when one is not needed any more, so that the lists only
# shrink.
LONG_LINES: dict[str, str] = {}
LONG_FUNCTIONS: dict[str, str] = {}
LONG_FILES: dict[str, str] = {}

ENGINE = "feedcore/"
TESTS = ("tests/", "benchmarks/")


class Ban:
    """A pattern that may not occur below `where`, except in `allowed`, and what to use in its
    place.
    """

    def __init__(
        self, pattern: str, where: tuple[str, ...], allowed: tuple[str, ...], instead: str
    ) -> None:
        self.pattern = re.compile(pattern)
        self.where = where
        self.allowed = allowed
        self.instead = instead

    def covers(self, path: str) -> bool:
        return path.startswith(self.where) and not path.startswith(self.allowed or ("\0",))


CODE = ("feedcore/", "server/", "ext/", "scripts/", "setup.py")
# Where the glossary of ARCHITECTURE.md holds, and what stays as it was written.
PROSE = (*CODE, *TESTS, "tools/", "docs/", "deploy/", "README", "ARCHITECTURE", "CONTRIBUTING")
NOT_REWRITTEN = (
    "tests/test_tidy.py",
    "benchmarks/results/",
    "feedcore/adapters/cluster/",
    "feedcore/adapters/redis/",
    "feedcore/adapters/contracts/",
    "tests/cluster/",
)
BANS = [
    Ban(
        r"\btime\.(time|time_ns|monotonic|monotonic_ns|sleep|perf_counter|perf_counter_ns)\b"
        r"|^\s*from time import|\bdatetime\.(now|utcnow|today)\b",
        ("feedcore/", "server/", "ext/"),
        ("feedcore/clock.py",),
        "feedcore.clock",
    ),
    Ban(
        r"\b(time|asyncio)\.sleep\(",
        ("tests/unit/",),
        (),
        "ManualClock, events, or a bounded wait in tests/integration",
    ),
    Ban(
        r"\b(subprocess|multiprocessing|ServerProcess|ServerUnderTest)\b|\bos\.fork\b",
        ("tests/unit/",),
        (),
        "tests/process, or tests/integration for servers",
    ),
    Ban(
        r"\btuple\[(?:[^,\[\]]+,){3}",
        ("feedcore/domain/", "feedcore/ports/", "feedcore/services/", "feedcore/compose/"),
        ("feedcore/domain/entry.py",),  # rows: read by all twins in their inner loops
        "a NamedTuple: more than three positions have names",
    ),
    Ban(r"\bexcept\s*:", CODE + TESTS, (), "a named exception"),
    Ban(
        r"\basyncio\.(Lifo|Priority)?Queue\(\s*\)|\b(queue\.)?SimpleQueue\(",
        CODE,
        (),
        "Queue(maxsize=a bound of limits.py)",
    ),
    Ban(r"\bgather\(\s*\*", CODE, (), "asyncio.TaskGroup over a bounded number of tasks"),
    Ban(
        r"\bprint\(",
        ("feedcore/", "server/"),
        ("feedcore/cli/", "server/processes/supervisor.py"),
        "feedcore.observe.logs",
    ),
    Ban(
        r"\bStatusCode\b",
        ("feedcore/", "server/"),
        ("server/status.py", "feedcore/cli/"),
        "feedcore.errors; server/status.py",
    ),
    Ban(
        r"^\s*(import|from) grpc\b",
        ("feedcore/",),
        # the command line and bulk loads call a server; collaborators are gRPC services of others
        ("feedcore/cli/", "feedcore/loading/", "feedcore/adapters/collaborators/"),
        "feedcore_server",
    ),
    Ban(r"^\s*include\s+[\"']", ("ext/",), (), "cimport of a .pxd"),
    Ban(
        r"\bfeedcore\._native\b",
        ("feedcore/services/", "feedcore/workers/", "feedcore/compose/"),
        (),
        "feedcore.native",
    ),
    Ban(
        r"\b(TO" r"DO|FIX" r"ME|XX" r"X)\b|\bNotImplementedError\b",
        CODE + TESTS,
        (),
        "the finished thing",
    ),
    Ban(
        r"\bTrust\b|\btrust\.\w|\bis_settling\b|\bgrace\b|redis_untrusted",
        ("feedcore/adapters/", "tests/cluster/", "deploy/", "docs/"),
        (),
        "FailureDetector: suspect, probation, resync",
    ),
    Ban(
        r"\b(owed|owes|unpaid|payment|paying)\b|\bOWED|\bPAY_|announcements_owed|\b_Due\b",
        ("feedcore/adapters/", "tests/cluster/", "deploy/", "docs/operations.md"),
        (),
        "pending, in flight, acknowledged; flush",
    ),
    Ban(
        r"(?i)\b(no)?truth\b",
        ("feedcore/", "server/", "ext/", "tests/cluster/"),
        (),
        "system of record",
    ),
    Ban(
        r"\b(_say_again|_tell|_judge|_meet)\b|FORGET\b|\bForget\b",
        ("feedcore/adapters/",),
        (),
        "announce, reannounce; observe an epoch, invalidate",
    ),
    Ban(
        r"(?<![\w.])/(work|tmp|root)/",
        CODE + TESTS + ("docs/", "README", "Makefile", ".ci/"),
        ("tests/test_tidy.py",),
        "a path relative to the project, or tempfile",
    ),
    *(
        Ban(pattern, PROSE, NOT_REWRITTEN, instead)
        for pattern, instead in (
            (r"\bclass Hits\b|\.hits\.|\bANYTHING\b", "batched reads; VALIDATE_ONLY"),
            (r"\b[Ff]reshness\b(?!-s)|\bFRESHNESS|_freshness_(?!s\b)", "cache validation"),
            (
                r"\bplain_(pages|checks)\b|_plain_page|\bpages_(kept|made)\b"
                r"|the plain (service|path)|[\"=`](kept|plain)`,",
                "generic path; cached, generated",
            ),
            (
                r"\bside by side\b|\b[Tt]ruth\b|\bWhoever\b|_say_again|\b[Mm]irror(s|ed|ing)?\b",
                "concurrently; system of record; the actor; reannounce; replica",
            ),
            (
                r"\b[Oo]utboxes\b(?!\")|\bauthors?'?s?'? outbox|_outboxes\b",
                'author timeline: an outbox holds jobs ("outboxes" is a receipt\'s source)',
            ),
        )
    ),
]


@functools.cache
def _tracked() -> frozenset[str]:
    """All files of the project: what git tracks, or what is there without git."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode == 0:
        paths = [path for path in listed.stdout.split("\0") if path]
    else:
        paths = [str(path.relative_to(ROOT)) for path in ROOT.rglob("*") if path.is_file()]
        paths = [
            path for path in paths if not path.startswith((".venv/", "build/", "feedcore_pb/"))
        ]
    return frozenset(path for path in paths if (ROOT / path).is_file())


def tracked(*suffixes: str) -> list[str]:
    """Files of the project with one of these suffixes."""
    return sorted(path for path in _tracked() if path.endswith(suffixes))


@functools.cache
def text_of(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


class Outline(NamedTuple):
    """A .py file: whether it has a docstring; (name, first line, number of lines) of each function,
    docstring and decorators not counted; lines of the handlers that drop any exception.
    """

    documented: bool
    functions: list[tuple[str, int, int]]
    swallowing: list[int]


@functools.cache
def outline(path: str) -> Outline:
    """Each file is parsed once for all tests."""
    tree = ast.parse(text_of(path))
    found = Outline(ast.get_docstring(tree) is not None, [], [])
    for node in statements(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.functions.append((node.name, node.lineno, lines_of(node)))
        elif isinstance(node, ast.ExceptHandler) and swallows(node):
            found.swallowing.append(node.lineno)
    return found


def statements(tree: ast.Module) -> Iterator[ast.AST]:
    """Every statement and except clause; not the expressions in them, which are most of a tree."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        for part in ("body", "orelse", "finalbody", "handlers", "cases"):
            waiting += getattr(node, part, ())


def lines_of(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    first = node.body[0]
    documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    doc_lines = first.end_lineno - first.lineno + 1 if documented and first.end_lineno else 0
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1 - doc_lines


def swallows(node: ast.ExceptHandler) -> bool:
    broad = node.type is None or "Exception" in ast.unparse(node.type).split(".")
    return broad and all(
        isinstance(part, ast.Pass)
        or (isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant))
        for part in node.body
    )


def cython_functions(path: str) -> Iterator[tuple[str, int, int]]:
    """(name, first line, number of lines) of each top-level function or method, by indentation."""
    start = re.compile(
        r"^( *)(?:def|cdef|cpdef)\b(?!.*\b(?:class|extern|struct|enum)\b)[^=]*?(\w+)\("
    )
    lines = text_of(path).splitlines()
    for number, line in enumerate(lines):
        match = start.match(line)
        if not match:
            continue
        indent, end = len(match[1]), number + 1
        for later in range(number + 1, len(lines)):
            body = lines[later]
            if (
                body.strip()
                and len(body) - len(body.lstrip()) <= indent
                and not body.lstrip().startswith(")")
            ):
                break
            if body.strip():
                end = later + 1
        yield match[2], number + 1, end - number


def unneeded(exceptions: dict[str, str], found: set[str]) -> list[str]:
    return [
        f"{path}: not needed any more, take it off the list"
        for path in exceptions
        if path not in found
    ]


def test_lines_are_short() -> None:
    faults: dict[str, str] = {}
    for path in tracked(".py", ".pyx", ".pxd", ".pyi"):
        for number, line in enumerate(text_of(path).splitlines(), 1):
            if len(line) > COLUMNS_MAX:
                faults.setdefault(
                    path, f"{path}:{number}: {len(line)} columns; at most {COLUMNS_MAX}"
                )
    found = [fault for path, fault in faults.items() if path not in LONG_LINES]
    assert not found + unneeded(LONG_LINES, set(faults)), "\n".join(found)


def test_functions_fit_on_a_screen() -> None:
    faults: dict[str, str] = {}
    for path in tracked(".py", ".pyx"):
        for name, line, length in (
            outline(path).functions if path.endswith(".py") else cython_functions(path)
        ):
            if length > FUNCTION_LINES_MAX:
                faults[f"{path}:{name}"] = f"{path}:{line}: {name} has {length} lines"
    found = [fault for key, fault in faults.items() if key not in LONG_FUNCTIONS]
    assert not found + unneeded(LONG_FUNCTIONS, set(faults)), "\n".join(found)


def test_files_are_one_idea_long() -> None:
    lengths = {path: len(text_of(path).splitlines()) for path in tracked(".py", ".pyx", ".pxd")}
    long = {path: count for path, count in lengths.items() if count > FILE_LINES_MAX}
    found = [
        f"{path}: {count} lines; at most {FILE_LINES_MAX}"
        for path, count in long.items()
        if path not in LONG_FILES
    ]
    assert not found + unneeded(LONG_FILES, set(long)), "\n".join(found)


def test_every_module_says_what_it_is_for() -> None:
    found = [
        path for path in tracked(".py") if text_of(path).strip() and not outline(path).documented
    ]
    opening = re.compile(r'\A(\s*#[^\n]*\n|\s)*[rR]?"""')
    found += [path for path in tracked(".pyx") if not opening.match(text_of(path))]
    assert not found, f"no docstring at the top: {found}"


@pytest.mark.parametrize("ban", BANS, ids=lambda ban: ban.pattern.pattern[:40])
def test_banned_names_have_a_replacement(ban: Ban) -> None:
    found = []
    for path in tracked(".py", ".pyx", ".pxd", ".md", ".sh", "Makefile", ".ci/run"):
        if not ban.covers(path):
            continue
        for number, line in enumerate(text_of(path).splitlines(), 1):
            if ban.pattern.search(line) and not line.lstrip().startswith("#!"):
                found.append(f"{path}:{number}: {line.strip()[:80]} -> use {ban.instead}")
    assert not found, "\n".join(found)


# As in io: what opens what a class stands for. As in iterators: what hands out the next one.
CONVENTIONAL = {"open", "next"}
HANDLERS = "server/handlers/"  # named as the methods of their service


def test_methods_have_names_of_their_own() -> None:
    # Within a class that has a method `list` the annotation `list[int]` means that method.
    taken = {name for name in dir(builtins) if name.islower()} - CONVENTIONAL
    found = []
    for path in tracked(".py", ".pyi"):
        if path.startswith(HANDLERS):
            continue
        classes = [
            one for one in ast.walk(ast.parse(text_of(path))) if isinstance(one, ast.ClassDef)
        ]
        for holder in classes:
            for one in holder.body:
                is_method = isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)
                if is_method and one.name in taken:
                    found.append(f"{path}:{one.lineno}: {holder.name}.{one.name} is a builtin")
    assert not found, "\n".join(found)


def test_nothing_is_swallowed() -> None:
    found = [
        f"{path}:{line}: handle it, log it, or let it go on"
        for path in tracked(".py")
        for line in outline(path).swallowing
    ]
    assert not found, "\n".join(found)


def test_every_compiled_module_has_types_and_a_twin_switch() -> None:
    # The binding of libnghttp2 has no twin: the grpcio transport is its alternative.
    transport = ("h2", "guarded", "h2head", "h2stream", "grpcframe")
    # Nor have those of the load generator: there is no slower one.
    load = ("h2call", "h2client", "loadstats", "pagescan")
    # Compiled handlers alone use these; the generic path answers what the handlers decline.
    handlers = (
        "cache",
        "cursor",
        "feedwire",
        "resident",
        "draft",
        "page",
        "reply",
        "fastfeed",
    )
    native = ROOT / "feedcore" / "native.py"
    switch = native.read_text(encoding="utf-8") if native.exists() else ""
    found = []
    for path in tracked(".pyx"):
        if not (ROOT / path).with_suffix(".pyi").is_file():
            found.append(f"{path}: no .pyi beside it")
        stem = Path(path).stem
        if stem not in switch and stem not in transport + load + handlers:
            found.append(f"{path}: feedcore/native.py does not name it")
    assert not found, "\n".join(found)


def test_generated_code_is_not_tracked() -> None:
    assert not [
        path
        for path in tracked("_pb2.py", "_pb2_grpc.py", ".c", ".so")
        if path.startswith("feedcore")
    ]
