"""Connections that the server ends by age cost clients no call, whatever their stack.

The clients make their calls one after the other, far longer than a connection may live: every
call that meets a GOAWAY must be served, or be refused in a way that its client may retry.
"""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator

import pytest

from tests.conformance.interop.builds import go_tools, java_classpath, node_modules, played
from tests.conformance.interop.conftest import Served
from tests.conformance.interop.core_cases import connected, large_unary
from tests.conformance.interop.pinned import LONG
from tests.conformance.interop.test_node import CLIENT
from tests.support.testserver import ServerUnderTest
from tests.support.testservice import PROTO
from tests.support.tools import tool

AGE_S = 0.05
CALLS = 5_000 if LONG else 400
WITHIN_S = 600.0


@pytest.fixture(scope="module")
def clients() -> list[Served]:
    """What `ageing` gave out: one for each test that ran in this process."""
    return []


@pytest.fixture(scope="module")
def ageing_server(clients: list[Served]) -> Iterator[ServerUnderTest]:
    """The native transport, with connections that do not get old."""
    with ServerUnderTest("--transport", "native", "--age-s", str(AGE_S)) as server:
        yield server
    # A client that keeps its connection has one. Else the tests have shown nothing; how many more
    # there are follows from how fast the machine is.
    assert int(server.last_words.split()[1]) >= 2 * len(clients), server.last_words


@pytest.fixture
def ageing(ageing_server: ServerUnderTest, clients: list[Served]) -> Served:
    clients.append(Served("native", ageing_server.address, None))
    return clients[-1]


# C-core ends calls that it has not sent yet when the first GOAWAY comes, and tries them again by
# itself only if their message fits into this buffer; its default is 256 KiB, the message is 272.
RETRY_BUFFER = ("grpc.per_rpc_retry_buffer_size", 1024 * 1024)


async def test_core(ageing: Served) -> None:
    async def calls() -> None:
        async with connected(ageing, RETRY_BUFFER) as client:
            for _ in range(CALLS):
                await large_unary(client, ageing)

    await asyncio.wait_for(calls(), WITHIN_S)


def test_node(ageing: Served) -> None:
    command = [tool("node", "apt-get install nodejs"), str(CLIENT), "--address", ageing.address]
    command += ["--proto", str(PROTO), "--soak", str(CALLS), "rpc_soak"]
    assert played(command, NODE_PATH=str(node_modules()))["rpc_soak"] is None


def test_go(ageing: Served) -> None:
    command = [str(go_tools() / "client"), *soak(ageing, "-"), "-test_case=rpc_soak"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=WITHIN_S, check=False)
    told = [line for line in result.stderr.splitlines() if not line.endswith(" succeeded")]
    assert result.returncode == 0, "\n".join(told)


@pytest.mark.parametrize("okhttp", ["false", "true"])
def test_java(ageing: Served, okhttp: str) -> None:
    command = [tool("java", "apt-get install default-jdk-headless"), "-cp", java_classpath()]
    command += ["io.grpc.testing.integration.Cases", "rpc_soak", *soak(ageing, "--")]
    assert played([*command, "--use_tls=false", f"--use_okhttp={okhttp}"])["rpc_soak"] is None


def soak(served: Served, dashes: str) -> list[str]:
    """Flags that the Go and Java clients share."""
    host, _, port = served.address.rpartition(":")
    flags = {
        "server_host": host,
        "server_port": port,
        "soak_iterations": CALLS,
        "soak_num_threads": 4,
        "soak_overall_timeout_seconds": int(WITHIN_S),
        "soak_per_iteration_max_acceptable_latency_ms": 60_000,
    }
    return [f"{dashes}{name}={value}" for name, value in flags.items()]
