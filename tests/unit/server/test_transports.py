"""Which transport serves: what was asked for, what this machine has, and what is said of it."""

from __future__ import annotations

import pytest

from feedcore.errors import ConfigError
from feedcore.native import COMPILED
from feedcore_server.transports import choose, native_usable


def fit() -> tuple[bool, str]:
    return True, ""


def doubtful() -> tuple[bool, str]:
    return True, "make sure"


def unfit() -> tuple[bool, str]:
    return False, "libnghttp2 1.40.0 is too old"


def test_auto_takes_the_native_one_where_it_is_fit() -> None:
    assert choose("auto", fit) == ("native", "")
    assert choose("auto", doubtful) == ("native", "make sure")
    assert choose("native", doubtful) == ("native", "make sure")


def test_auto_falls_back_and_says_why() -> None:
    choice = choose("auto", unfit)
    assert choice.name == "grpcio"
    assert "too old" in choice.warning and "grpc.aio" in choice.warning


def test_native_is_not_replaced_in_silence() -> None:
    with pytest.raises(ConfigError, match="server.transport native: libnghttp2 1.40.0"):
        choose("native", unfit)


def test_grpcio_is_what_it_was_asked_for() -> None:
    assert choose("grpcio", unfit) == ("grpcio", "")


def test_this_machine_serves_natively_unless_switched_off() -> None:
    usable, detail = native_usable()
    assert usable is COMPILED, detail
    assert COMPILED or "FEEDCORE_NO_EXTENSIONS" in detail
