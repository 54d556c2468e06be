"""The interop cases with a C-core client."""

from __future__ import annotations

import asyncio

import pytest

from tests.conformance.interop.conftest import Served
from tests.conformance.interop.core_cases import CASES, play
from tests.conformance.interop.pinned import LONG, judge

CASE_WITHIN_S = 900.0 if LONG else 120.0


@pytest.mark.parametrize("case", CASES)
async def test_case(case: str, served: Served) -> None:
    fault = await asyncio.wait_for(play(case, served), CASE_WITHIN_S)
    judge(served.transport, case, fault)
