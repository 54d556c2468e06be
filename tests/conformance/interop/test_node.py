"""The interop cases with @grpc/grpc-js on Node: an HTTP/2 stack that shares no code with C-core."""

from __future__ import annotations

import functools

import pytest

from tests.conformance.interop.builds import HERE, Faults, node_modules, played
from tests.conformance.interop.conftest import Served
from tests.conformance.interop.core_cases import CASES as CORE_CASES
from tests.conformance.interop.pinned import LONG, judge
from tests.support.testservice import PROTO
from tests.support.tools import tool

CLIENT = HERE / "node" / "client.js"
# Its API offers no way to accept no compression; the other two need no second stack.
NOT_PLAYED = (
    "server_compressed_streaming_late",
    "server_compressed_not_accepted",
    "long_lived_channel",
)
CASES = [case for case in CORE_CASES if case not in NOT_PLAYED]
# More calls at once than a connection may have open: they are at work together, and the rest waits.
SIZES = ["--parallel", "1000", "--soak", "300"] if LONG else ["--parallel", "300"]


@functools.cache
def faults(served: Served) -> Faults:
    """What the client finds wrong, by case; one process plays all."""
    command = [tool("node", "apt-get install nodejs"), str(CLIENT), "--address", served.address]
    command += ["--proto", str(PROTO), *SIZES, *(["--ca", str(served.ca)] if served.ca else [])]
    return played(command, NODE_PATH=str(node_modules()))


@pytest.mark.parametrize("case", CASES)
def test_case(case: str, served: Served) -> None:
    judge(served.transport, case, faults(served)[case])
