"""Shared by every test: long variants are opt-in, Hypothesis is seeded, servers and stores are
real.

Not for fakes: a test that needs a store opens one in a temporary directory.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import HealthCheck, settings

# Fixtures `services` and `cluster_of`; `profile` and `world`.
pytest_plugins = ["tests.support.services", "tests.support.worlds"]

LONG = os.environ.get("FEEDCORE_LONG") == "1"

# A fixed seed in the usual run, so that a failure is the commit's and not the day's; many more
# cases when long.
settings.register_profile(
    "usual",
    derandomize=True,
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.register_profile(
    "long", settings.get_profile("usual"), derandomize=False, max_examples=1_000
)
settings.load_profile("long" if LONG else "usual")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips what is marked `long`, unless FEEDCORE_LONG=1. With `-n`, the tests of a class, or of a
    file without classes, run in one process: they share fixtures that take seconds to make.
    """
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.nodeid.rsplit("::", 1)[0]))
    if LONG:
        return
    skip = pytest.mark.skip(reason="long variant: FEEDCORE_LONG=1 or make test-all")
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """Undoes what a test sets up for logs: later tests must not write to its captured stderr."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    if structlog.is_configured():
        structlog.reset_defaults()
        root.handlers[:] = handlers
        root.setLevel(level)
