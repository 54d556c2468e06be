"""Structured logs: one JSON object a line on stderr, made by structlog.

Never in a log line: user content, raw user ids, cursors, idempotency keys. A user is named by a
keyed hash, so that lines about one user can be joined but not turned back into an id without the
store's key.
"""

from __future__ import annotations

import hashlib
import logging
import sys
from typing import Any

import structlog

USER_HASH_BYTES = 8  # enough to tell 200 million users apart in one day's logs


class UserHash:
    """Keyed hash of user ids; one key a store."""

    def __init__(self, key: bytes) -> None:
        self._state = hashlib.blake2b(
            key=key[:64], digest_size=USER_HASH_BYTES, person=b"feedcore-log"
        )

    def __call__(self, user_id: int) -> str:
        """16 hex digits for a user id."""
        state = self._state.copy()
        state.update(user_id.to_bytes(8, "little"))
        return state.hexdigest()


def configure(level: str = "info", form: str = "json", **always: str | int) -> None:
    """Sets up logging for this process; `always` (role, worker number) is on every line.

    `level`: debug, info, warning or error. `form`: json, or console for people.
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    renderer: Any = structlog.processors.JSONRenderer(sort_keys=False)
    if form == "console":
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())

    def add_always(_logger: object, _method: str, event: dict[str, Any]) -> dict[str, Any]:
        return {**event, **always}

    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        add_always,
    ]
    if form == "json":
        shared.append(structlog.processors.format_exc_info)
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        # One write a line: all processes of a server share this file.
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    _format_standard_logging(number, shared, renderer)


def _format_standard_logging(level: int, shared: list[Any], renderer: Any) -> None:
    """The engine's modules and libraries log through the standard module: the same lines."""
    handler = logging.StreamHandler(sys.stderr)
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
    )
    handler.setFormatter(formatter)
    logging.basicConfig(handlers=[handler], level=max(level, logging.WARNING), force=True)
    logging.getLogger("feedcore").setLevel(level)


def get(name: str) -> Any:
    """The logger of one part of the project; `name` is on each of its lines as `part`."""
    return structlog.get_logger(part=name)
