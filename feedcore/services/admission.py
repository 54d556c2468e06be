"""Checks of single request fields that several services share. Raises InvalidField, changes
nothing.
"""

from __future__ import annotations

from feedcore.errors import InvalidField
from feedcore.limits import (
    IDEMPOTENCY_KEY_BYTES_MAX,
    LIST_PAGE_MAX,
    PAGE_SIZE_DEFAULT,
    PAGE_SIZE_MAX,
    USER_ID_MAX,
)


def check_id(field: str, value: int) -> int:
    """A user or content id: 1 to 2^63 - 1."""
    if not 1 <= value <= USER_ID_MAX:
        raise InvalidField(field, str(value), f"must be 1 to {USER_ID_MAX}")
    return value


def check_two_users(field: str, user_id: int, target_field: str, target_id: int) -> None:
    """Two ids of different users."""
    check_id(field, user_id)
    check_id(target_field, target_id)
    if user_id == target_id:
        raise InvalidField(
            target_field, f"{target_id}, the same as {field}", "must be another user"
        )


def check_page_size(value: int) -> int:
    """Items of a feed page: 0 means the default."""
    if value == 0:
        return PAGE_SIZE_DEFAULT
    if not 1 <= value <= PAGE_SIZE_MAX:
        raise InvalidField(
            "page_size", str(value), f"must be 1 to {PAGE_SIZE_MAX}, or 0 for {PAGE_SIZE_DEFAULT}"
        )
    return value


def check_list_size(value: int) -> int:
    """Ids of a listing page: 0 means the most."""
    if not 0 <= value <= LIST_PAGE_MAX:
        raise InvalidField(
            "page_size", str(value), f"must be 1 to {LIST_PAGE_MAX}, or 0 for the most"
        )
    return value or LIST_PAGE_MAX


def check_idempotency_key(value: str) -> str:
    """At most IDEMPOTENCY_KEY_BYTES_MAX bytes of UTF-8; may be empty."""
    size = len(value.encode())
    if size > IDEMPOTENCY_KEY_BYTES_MAX:
        raise InvalidField(
            "idempotency_key", f"{size} bytes", f"at most {IDEMPOTENCY_KEY_BYTES_MAX}"
        )
    return value
