"""Every exception has one status; nothing of the inside reaches a caller."""

from __future__ import annotations

import asyncio
import inspect

import pytest

from feedcore import errors
from feedcore_server.status import MESSAGE_CHARS_MAX, OK, PUSHBACK_KEY, RETRY_AFTER_KEY, outcome_of

TRACE = "0af7651916cd43dd8448eb211c80319c"


def engine_errors() -> list[type[errors.FeedcoreError]]:
    classes = [c for _, c in inspect.getmembers(errors, inspect.isclass)]
    return [c for c in classes if issubclass(c, errors.FeedcoreError)]


@pytest.mark.parametrize("error_class", engine_errors(), ids=lambda c: c.__name__)
def test_every_engine_error_has_a_grpc_status(error_class: type[errors.FeedcoreError]) -> None:
    error = error_class.__new__(error_class)
    Exception.__init__(error, "the reason")
    if isinstance(error, errors.Overloaded):
        error.retry_after_ms = 250
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
    assert outcome.trailers == ((RETRY_AFTER_KEY, "250"), (PUSHBACK_KEY, "250"))


@pytest.mark.parametrize("bug", [KeyError("secret"), ValueError("secret"), ZeroDivisionError()])
def test_a_bug_is_unknown_and_tells_only_the_trace(bug: Exception) -> None:
    outcome = outcome_of(bug, TRACE)
    assert outcome.name == "unknown" and not outcome.expected
    assert "secret" not in outcome.message and TRACE in outcome.message


def test_cancellation_and_timeout() -> None:
    assert outcome_of(asyncio.CancelledError(), TRACE).name == "cancelled"
    assert outcome_of(TimeoutError(), TRACE).name == "deadline_exceeded"
    assert (OK.name, OK.number) == ("ok", 0)


def test_a_message_fits_into_trailers() -> None:
    assert len(outcome_of(errors.NotFound("x" * 100_000), TRACE).message) == MESSAGE_CHARS_MAX
