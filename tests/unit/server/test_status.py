"""Every exception has one status; nothing of the inside reaches a caller."""

from __future__ import annotations

import asyncio
import base64
import inspect
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from feedcore import errors
from feedcore_server.handlers.health import TooManyServices
from feedcore_server.status import (
    BUG,
    DEADLINE_PASSED,
    HUNG_UP,
    MESSAGE_CHARS_MAX,
    OK,
    PUSHBACK_KEY,
    RETRY_AFTER_KEY,
    TRANSPORT_REASONS,
    Outcome,
    outcome_of,
    refusal_trailers,
)

ROOT = Path(__file__).resolve().parents[3]
CURSOR_FLAWS = {"MALFORMED", "FORGED", "FOREIGN", "VERSION", "EXPIRED"}
HEADERS_BYTES_MAX = 8_192  # what a client takes of trailers, unless told otherwise

TRACE = "0af7651916cd43dd8448eb211c80319c"


def details(outcome: Outcome, kind: Any) -> list[Any]:
    """Of one kind, as a client reads them: grpcio-status compares code and message, too."""
    call = SimpleNamespace(
        code=lambda: outcome.code,
        details=lambda: outcome.message,
        trailing_metadata=lambda: outcome.trailers,
    )
    status = rpc_status.from_call(call)
    assert status is not None
    found = []
    for one in status.details:
        detail = kind()
        if one.Unpack(detail):
            found.append(detail)
    return found


def engine_errors() -> list[type[errors.FeedcoreError]]:
    classes = [c for _, c in inspect.getmembers(errors, inspect.isclass)]
    return [c for c in classes if issubclass(c, errors.FeedcoreError)]


@pytest.mark.parametrize("error_class", engine_errors(), ids=lambda c: c.__name__)
def test_every_engine_error_has_a_grpc_status(error_class: type[errors.FeedcoreError]) -> None:
    error = error_class.__new__(error_class)
    Exception.__init__(error, "the reason")
    if isinstance(error, errors.InvalidField):
        error.field, error.seen, error.bound = "page_size", "101", "must be 1 to 100"
    outcome = outcome_of(error, TRACE)
    assert outcome.name == error_class.status
    assert outcome.code.name.lower() == error_class.status
    assert outcome.number == outcome.code.value[0]
    assert outcome.message == "the reason" and outcome.expected


def test_field_and_bound_are_in_the_message() -> None:
    outcome = outcome_of(errors.InvalidField("page_size", "101", "must be 1 to 100"), TRACE)
    assert (outcome.name, outcome.message) == (
        "invalid_argument",
        "page_size: 101; must be 1 to 100",
    )


def test_overload_says_when_to_retry() -> None:
    outcome = outcome_of(errors.Overloaded("the write queue", "4,096", 250), TRACE)
    assert outcome.name == "resource_exhausted"
    assert outcome.trailers[:2] == ((RETRY_AFTER_KEY, "250"), (PUSHBACK_KEY, "250"))
    (retry,) = details(outcome, error_details_pb2.RetryInfo)
    assert retry.retry_delay.ToMilliseconds() == 250


@pytest.mark.parametrize("bug", [KeyError("secret"), ValueError("secret"), ZeroDivisionError()])
def test_a_bug_is_unknown_and_tells_only_the_trace(bug: Exception) -> None:
    outcome = outcome_of(bug, TRACE)
    assert outcome.name == "unknown" and not outcome.expected
    assert "secret" not in outcome.message and TRACE in outcome.message
    (info,) = details(outcome, error_details_pb2.ErrorInfo)
    assert (info.reason, dict(info.metadata)) == ("BUG", {"trace_id": TRACE})


def test_cancellation_and_timeout() -> None:
    assert outcome_of(asyncio.CancelledError(), TRACE).name == "cancelled"
    assert outcome_of(TimeoutError(), TRACE).name == "deadline_exceeded"
    assert (OK.name, OK.number) == ("ok", 0)


def test_a_message_fits_into_trailers() -> None:
    assert len(outcome_of(errors.NotFound("x" * 100_000), TRACE).message) == MESSAGE_CHARS_MAX


@pytest.mark.parametrize("error_class", engine_errors(), ids=lambda c: c.__name__)
def test_a_reason_is_a_word_of_its_own(error_class: type[errors.FeedcoreError]) -> None:
    assert re.fullmatch(r"[A-Z][A-Z0-9_]+[A-Z0-9]", error_class.reason)
    others = set(engine_errors()) - {error_class, errors.InvalidCursor}  # its flaw is its reason
    assert error_class.reason not in {one.reason for one in others} or (
        error_class is errors.InvalidCursor
    )


def test_details_say_what_is_wrong_with_a_field() -> None:
    outcome = outcome_of(errors.InvalidField("media[1].uri", "2049 bytes", "at most 2048"), TRACE)
    (info,) = details(outcome, error_details_pb2.ErrorInfo)
    assert (info.reason, info.domain) == ("FIELD_INVALID", "feedcore")
    (request,) = details(outcome, error_details_pb2.BadRequest)
    (violation,) = request.field_violations
    assert (violation.field, violation.reason) == ("media[1].uri", "FIELD_INVALID")
    assert violation.description == "2049 bytes; at most 2048"
    assert details(outcome, error_details_pb2.RetryInfo) == []


def test_flaws_of_a_cursor_have_reasons() -> None:
    outcome = outcome_of(errors.InvalidCursor("expired", "8 days"), TRACE)
    (info,) = details(outcome, error_details_pb2.ErrorInfo)
    assert info.reason == "CURSOR_EXPIRED"


def test_success_has_no_details() -> None:
    assert OK.trailers == ()


def test_what_the_transport_refuses_has_details() -> None:
    trailers = dict(refusal_trailers(8, "request: 9 bytes; at most 8"))
    assert b"REQUEST_TOO_LARGE" in trailers["grpc-status-details-bin"]
    trailers = dict(refusal_trailers(1, "stopping", "SERVER_STOPPING"))
    assert b"SERVER_STOPPING" in trailers["grpc-status-details-bin"]


@pytest.mark.parametrize("text", ["x", "\n", "\u00e9", "\N{GRINNING FACE}", "\ud800"])
def test_trailers_fit_into_a_clients_limit(text: str) -> None:
    outcome = outcome_of(errors.InvalidField(text * 10_000, text * 10_000, text * 10_000), TRACE)
    size = len(quote(outcome.message, safe=" ")) + len("grpc-message") + 32
    for name, value in outcome.trailers:
        raw = value if isinstance(value, str) else base64.b64encode(value).decode()
        size += len(name) + len(raw) + 32
    assert size < HEADERS_BYTES_MAX - 500  # of which a trace has 120
    assert len(details(outcome, error_details_pb2.BadRequest)) == 1


def test_the_reasons_are_documented() -> None:
    documented = re.findall(
        r"^\| `([A-Z_]+)` \|", section("### Reasons", "## Metadata"), flags=re.MULTILINE
    )
    known = {one.reason for one in [*engine_errors(), TooManyServices]}
    known |= {f"CURSOR_{flaw}" for flaw in CURSOR_FLAWS}
    known |= TRANSPORT_REASONS | {BUG, HUNG_UP, DEADLINE_PASSED}
    assert len(documented) == len(set(documented))
    assert set(documented) == known


def test_flaws_of_cursors_are_those_that_are_raised() -> None:
    sources = [*ROOT.glob("feedcore/**/*.py"), *ROOT.glob("ext/**/*.pyx")]
    raised = set()
    for path in sources:
        raised |= set(re.findall(r'InvalidCursor\(\s*"(\w+)"', path.read_text(encoding="utf-8")))
    assert {flaw.upper() for flaw in raised} == CURSOR_FLAWS


def section(begin: str, end: str) -> str:
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    return text[text.index(begin) : text.index(end)]
