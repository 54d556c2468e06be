"""Rows of a bulk load, and the checks a line must pass to become one.

Every check raises `BadRow` with the column, what was seen and the bound; the reader adds file and
line number. Not for checks that need the store (unknown posts, blocks): the import service refuses
those rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from feedcore.limits import (
    BODY_CHARS_MAX,
    CLOCK_AHEAD_MAX_MS,
    IDEMPOTENCY_KEY_BYTES_MAX,
    RETENTION_MS,
    USER_ID_MAX,
)
from feedcore.services.importing import KEY_PREFIX, InteractionRow, PostRow

COUNT_MAX = 2**63 - 1  # counters are signed 64-bit in the store
POST_KEY_BYTES_MAX = IDEMPOTENCY_KEY_BYTES_MAX - len(KEY_PREFIX)  # it becomes one, with the prefix
SEEN_CHARS_MAX = 40  # of a bad value, in a message
INTERACTION_KINDS = ("like", "comment", "share", "click", "hide")

# Column names that mean the same in the files people have; the first is ours.
ALIASES: dict[str, tuple[str, ...]] = {
    "post_key": ("post_key", "key", "id", "tweet_id", "status_id"),
    "author_id": ("author_id", "author"),
    "user_id": ("user_id", "user"),
    "content_id": ("content_id",),
    "at_ms": ("at_ms", "created_at_ms", "published_at_ms", "timestamp_ms"),
    "body": ("body", "text", "title"),
    "kind": ("kind", "type"),
    "likes": ("likes", "like_count"),
    "comments": ("comments", "comment_count", "replies"),
    "shares": ("shares", "share_count", "reposts"),
}
POST_COLUMNS = ("post_key", "author_id", "at_ms", "body")
INTERACTION_COLUMNS = ("user_id", "kind", "at_ms")


class BadRow(ValueError):
    """A line that is no row; the message names column, value and bound."""


class Edge(NamedTuple):
    """A follow (follower, followee) or a mute (user, target)."""

    source_id: int
    target_id: int


def parse_id(column: str, text: Any) -> int:
    """A user or content id: 1 to 2^63 - 1."""
    value = _integer(column, text)
    if not 1 <= value <= USER_ID_MAX:
        raise BadRow(f"{column} is {value}; ids are 1 to {USER_ID_MAX}")
    return value


def parse_edge(first: str, second: str) -> Edge:
    """Two different ids."""
    edge = Edge(parse_id("first id", first), parse_id("second id", second))
    if edge.source_id == edge.target_id:
        raise BadRow(f"both ids are {edge.source_id}; nobody follows or mutes themselves")
    return edge


def parse_post(record: Mapping[str, Any]) -> PostRow:
    """A post from columns named as in ALIASES; counts that are absent are 0."""
    body = _text("body", record.get("body"))
    if not 1 <= len(body) <= BODY_CHARS_MAX:
        raise BadRow(f"body has {len(body)} characters; allowed are 1 to {BODY_CHARS_MAX}")
    return PostRow(
        _post_key(record),
        parse_id("author_id", record.get("author_id")),
        _time("at_ms", record.get("at_ms")),
        body,
        *(_count(name, record.get(name)) for name in ("likes", "comments", "shares")),
    )


def parse_interaction(record: Mapping[str, Any]) -> InteractionRow:
    """An interaction; needs content_id, or post_key with author_id."""
    kind = _text("kind", record.get("kind")).strip().lower()
    if kind not in INTERACTION_KINDS:
        raise BadRow(f"kind is {_shape(kind)}; it must be one of {', '.join(INTERACTION_KINDS)}")
    if record.get("content_id") not in (None, ""):
        key, author, content = "", 0, parse_id("content_id", record["content_id"])
    else:
        key, author, content = _post_key(record), parse_id("author_id", record.get("author_id")), 0
    user = parse_id("user_id", record.get("user_id"))
    return InteractionRow(user, key, author, content, kind, _time("at_ms", record.get("at_ms")))


def too_old(at_ms: int, now_ms: int) -> bool:
    """Whether a row of that (shifted) time is past retention."""
    return at_ms <= now_ms - RETENTION_MS


def check_not_future(at_ms: int, now_ms: int) -> None:
    """Refuses a (shifted) time ahead of the clock by more than skew explains."""
    if at_ms > now_ms + CLOCK_AHEAD_MAX_MS:
        ahead_ms = at_ms - now_ms
        raise BadRow(
            f"at_ms is {ahead_ms} ms in the future; at most {CLOCK_AHEAD_MAX_MS} ms are skew"
        )


def _post_key(record: Mapping[str, Any]) -> str:
    key = _text("post_key", record.get("post_key"))
    size = len(key.encode())
    if not 1 <= size <= POST_KEY_BYTES_MAX:
        raise BadRow(f"post_key has {size} bytes; allowed are 1 to {POST_KEY_BYTES_MAX}")
    return key


def _time(column: str, value: Any) -> int:
    at_ms = _integer(column, value)
    if not 0 < at_ms <= COUNT_MAX:
        raise BadRow(f"{column} is {at_ms}; it must be milliseconds since 1970, above 0")
    return at_ms


def _count(column: str, value: Any) -> int:
    if value in (None, ""):
        return 0
    count = _integer(column, value)
    if not 0 <= count <= COUNT_MAX:
        raise BadRow(f"{column} is {count}; counts are 0 to {COUNT_MAX}")
    return count


def _integer(column: str, value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    text = value.strip() if isinstance(value, str) else ""
    # int() alone would take "1_000" and other scripts' digits, and is quadratic in the length.
    if not (text.isascii() and text.removeprefix("-").isdigit() and len(text) <= 20):
        raise BadRow(f"{column} is {_shape(value)}; it must be a whole number")
    return int(text)


def _text(column: str, value: Any) -> str:
    if value is None:
        raise BadRow(f"{column} is missing")
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise BadRow(f"{column} is {_shape(value)}; it must be text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise BadRow(f"{column} is not UTF-8 at character {error.start}") from error
    return value


def _shape(value: Any) -> str:
    """What was seen, short and printable."""
    if value is None:
        return "missing"
    text = repr(value)
    return (
        text
        if len(text) <= SEEN_CHARS_MAX
        else f"{text[:SEEN_CHARS_MAX]}... ({len(text)} characters)"
    )
