"""The native transport on uvloop, which workers run on: what depends on the loop."""

from __future__ import annotations

import asyncio

import pytest
import uvloop

from tests.conformance import test_native


@pytest.fixture(scope="module")
def event_loop_policy() -> asyncio.AbstractEventLoopPolicy:
    """Every test of this module runs on uvloop."""
    return uvloop.EventLoopPolicy()


class TestEndings(test_native.TestEndings):
    pass


class TestDrain(test_native.TestDrain):
    pass


class TestKeepalive(test_native.TestKeepalive):
    pass


class TestFlow(test_native.TestFlow):
    pass


class TestTls(test_native.TestTls):
    pass


async def test_the_loop_is_uvloop() -> None:
    assert isinstance(asyncio.get_running_loop(), uvloop.Loop)
