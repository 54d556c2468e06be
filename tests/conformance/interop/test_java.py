"""The interop cases with the official Java client, on each of its two HTTP/2 stacks."""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path

import pytest

from tests.conformance.interop.builds import Faults, java_classpath, played
from tests.conformance.interop.conftest import Served
from tests.conformance.interop.pinned import LONG, judge
from tests.support.tools import tool

CASES = (
    "empty_unary",
    "large_unary",
    "very_large_request",
    "client_compressed_unary",
    "client_compressed_unary_noprobe",
    "server_compressed_unary",
    "client_streaming",
    "client_compressed_streaming",
    "client_compressed_streaming_noprobe",
    "server_streaming",
    "server_compressed_streaming",
    "ping_pong",
    "empty_stream",
    "custom_metadata",
    "status_code_and_message",
    "special_status_message",
    "unimplemented_method",
    "unimplemented_service",
    "cancel_after_begin",
    "cancel_after_first_response",
    "timeout_on_sleeping_server",
    "pick_first_unary",
    "rpc_soak",
    "channel_soak",
    # Tests of the client beside the cases.
    "fullDuplexCallShouldSucceed",
    "halfDuplexCallShouldSucceed",
    "serverStreamingShouldBeFlowControlled",
    "deadlineNotExceeded",
    "deadlineExceededServerStreaming",
    "deadlineInPast",
    "maxInboundSize_exact",
    "maxInboundSize_tooBig",
    "maxOutboundSize_exact",
    "maxOutboundSize_tooBig",
    "gracefulShutdown",
    "emptyUnaryWithRetriableStream",
)
# A probe that is not refused makes this client wait for 15 s; the other clients play the case, too.
SLOW = ("grpcio", "client_compressed_streaming")
SOAK = {
    "soak_iterations": 500 if LONG else 20,
    "soak_num_threads": 2,
    "soak_overall_timeout_seconds": 300,
    # Not a measurement: the machine may be busy with anything.
    "soak_per_iteration_max_acceptable_latency_ms": 30_000,
}
STORE_PASSWORD = "loopback"  # Java opens no store without one
STACKS = {"netty": "--use_okhttp=false", "okhttp": "--use_okhttp=true"}


@functools.cache
def faults(served: Served, stack: str) -> Faults:
    """What the client finds wrong, by case; one process plays all."""
    cases = [case for case in CASES if LONG or (served.transport, case) != SLOW]
    host, _, port = served.address.rpartition(":")
    flags = [f"--server_host={host}", f"--server_port={port}", STACKS[stack]]
    flags += [f"--use_tls={'true' if served.ca else 'false'}"]
    flags += [f"--{name}={value}" for name, value in SOAK.items()]
    java = [tool("java", "apt-get install default-jdk-headless"), "-cp", java_classpath()]
    if served.ca:
        java += [f"-Djavax.net.ssl.trustStore={trust_store(served.ca)}"]
        java += [f"-Djavax.net.ssl.trustStorePassword={STORE_PASSWORD}"]
    return played([*java, "io.grpc.testing.integration.Cases", ",".join(cases), *flags])


def trust_store(ca: Path) -> Path:
    """The authority as Java wants it."""
    store = ca.with_suffix(".p12")
    if not store.exists():
        command = [tool("keytool", "apt-get install default-jdk-headless"), "-importcert"]
        command += ["-noprompt", "-alias", "ca", "-file", str(ca), "-keystore", str(store)]
        command += ["-storetype", "PKCS12", "-storepass", STORE_PASSWORD]
        subprocess.run(command, check=True, capture_output=True)
    return store


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("case", CASES)
def test_case(case: str, stack: str, served: Served) -> None:
    if (served.transport, case) == SLOW and not LONG:
        pytest.skip("long variant: the client waits for what is pinned as not coming")
    judge(served.transport, case, faults(served, stack)[case])
