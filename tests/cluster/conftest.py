"""Tests of the cluster profile: against real servers, which are named in the environment.

FEEDCORE_TEST_CASSANDRA=HOST:PORT. Without it tests skip; with FEEDCORE_REQUIRE_SERVICES=1 they
fail.
"""

from __future__ import annotations

import os

import pytest


def address_of(variable: str) -> str:
    address = os.environ.get(variable, "")
    if not address:
        told = f"{variable} is not set: HOST:PORT of a real server (scripts/services up)"
        if os.environ.get("FEEDCORE_REQUIRE_SERVICES") == "1":
            pytest.fail(told)
        pytest.skip(told)
    return address


@pytest.fixture(scope="session")
def cassandra() -> str:
    """HOST:PORT of a real Cassandra or ScyllaDB node."""
    return address_of("FEEDCORE_TEST_CASSANDRA")
