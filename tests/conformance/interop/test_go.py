"""The interop cases with the official Go client, a process for each."""

from __future__ import annotations

import subprocess

import pytest

from tests.conformance.interop.builds import go_tools
from tests.conformance.interop.conftest import Served
from tests.conformance.interop.pinned import LONG, judge

CASES = (
    "empty_unary",
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "empty_stream",
    "timeout_on_sleeping_server",
    "cancel_after_begin",
    "cancel_after_first_response",
    "status_code_and_message",
    "special_status_message",
    "custom_metadata",
    "unimplemented_method",
    "unimplemented_service",
    "pick_first_unary",
    "rpc_soak",
    "channel_soak",
)
SOAK = {
    "soak_iterations": 1_000 if LONG else 20,
    "soak_num_threads": 2,
    "soak_overall_timeout_seconds": 300,
    # Not a measurement: the machine may be busy with anything.
    "soak_per_iteration_max_acceptable_latency_ms": 30_000,
}
CASE_WITHIN_S = 330.0


@pytest.mark.parametrize("case", CASES)
def test_case(case: str, served: Served) -> None:
    host, _, port = served.address.rpartition(":")
    command = [str(go_tools() / "client"), f"-server_host={host}", f"-server_port={port}"]
    command += [f"-test_case={case}", *(f"-{name}={value}" for name, value in SOAK.items())]
    if served.ca is not None:
        command += ["-use_tls", "-use_test_ca", f"-ca_file={served.ca}"]
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=CASE_WITHIN_S, check=False
    )
    judge(served.transport, case, result.stderr[-4_000:] if result.returncode else None)
