"""Which calls the log calls slow."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from feedcore.clock import ManualClock, SystemClock
from feedcore.compose import Role, compose
from feedcore.config import Settings
from feedcore.errors import InvalidField
from feedcore.observe.logs import UserHash
from feedcore_server.context import CallContext
from feedcore_server.interceptors.logging import NEVER_SLOW, logged
from feedcore_server.limits import SLOW_CALL_MS
from feedcore_server.wiring import wire


@pytest.mark.parametrize(
    ("operation", "took_ms", "event"),
    [
        ("GetFeed", SLOW_CALL_MS - 1, "call"),
        ("GetFeed", SLOW_CALL_MS, "slow call"),
        ("HealthWatch", 100 * SLOW_CALL_MS, "call"),
    ],
)
async def test_calls_that_last_are_no_slow_calls(operation: str, took_ms: int, event: str) -> None:
    clock = ManualClock(1_000)

    async def proceed(_call: CallContext, _request: Any) -> bytes:
        clock.advance(took_ms)
        return b""

    with capture_logs() as lines:
        await logged(clock, UserHash(b"key"))(CallContext("/s/m", operation, "test"), b"", proceed)
    assert [line["event"] for line in lines] == [event]


async def test_reads_that_end_well_are_debug_and_answered() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.INFO))
    try:
        intercept = logged(ManualClock(1_000), UserHash(b"key"))

        async def proceed(_call: CallContext, request: Any) -> bytes:
            if request == b"bad":
                raise InvalidField("view", "9", "0 to 2")
            return b"a page"

        with capture_logs() as lines:
            call = CallContext("/s/m", "GetFeed", "test")
            assert await intercept(call, b"", proceed) == b"a page"
            with pytest.raises(InvalidField):
                await intercept(call, b"bad", proceed)
            await intercept(CallContext("/s/m", "Publish", "test"), b"", proceed)
        logged_lines = [(line["operation"], line["status"]) for line in lines]
        assert logged_lines == [("GetFeed", "invalid_argument"), ("Publish", "ok")]
    finally:
        structlog.reset_defaults()


async def test_operations_that_are_never_slow_are_served(tmp_path: Path) -> None:
    settings = Settings.model_validate({"store": {"data_dir": str(tmp_path / "data")}})
    clock = SystemClock()
    async with compose(settings, Role.API, clock) as engine:
        registry = wire(engine, settings.server, clock).dispatcher.registry
        served = {method.operation for method in registry.methods()}
    assert served >= NEVER_SLOW
