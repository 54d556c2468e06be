"""What an author wrote, as wire bytes of feedcore.v1.Content: stored as they are sent, never
encoded twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from feedcore.codecs.protowire import bytes_field, text_field, uint_field
from feedcore.errors import InvalidField
from feedcore.limits import (
    BODY_CHARS_MAX,
    MEDIA_MIME_BYTES_MAX,
    MEDIA_REFS_MAX,
    MEDIA_URI_BYTES_MAX,
)

_DIGEST_BYTES = 16  # 128 bits: two requests under one idempotency key must not collide by chance


class Media(NamedTuple):
    """A reference to a picture, film or document kept elsewhere; width and height in pixels, 0 if
    unknown.
    """

    uri: str
    mime_type: str = ""
    width: int = 0
    height: int = 0


def encode_content(body: str, media: Sequence[Media], visibility: int) -> bytes:
    """Wire bytes of feedcore.v1.Content. Raises InvalidField naming the field and its bound."""
    _check(body, media, visibility)
    attached = [
        bytes_field(
            2,
            text_field(1, item.uri)
            + text_field(2, item.mime_type)
            + uint_field(3, item.width)
            + uint_field(4, item.height),
        )
        for item in media
    ]
    return b"".join((text_field(1, body), *attached, uint_field(3, visibility)))


def digest(content: bytes) -> bytes:
    """Tells two requests under one idempotency key apart."""
    return hashlib.blake2b(content, digest_size=_DIGEST_BYTES).digest()


def _check(body: str, media: Sequence[Media], visibility: int) -> None:
    if not 1 <= len(body) <= BODY_CHARS_MAX:
        raise InvalidField(
            "body", f"{len(body)} characters", f"must have 1 to {BODY_CHARS_MAX} characters"
        )
    if len(media) > MEDIA_REFS_MAX:
        raise InvalidField("media", f"{len(media)} references", f"at most {MEDIA_REFS_MAX}")
    for place, item in enumerate(media):
        uri_bytes = len(item.uri.encode())
        if not 1 <= uri_bytes <= MEDIA_URI_BYTES_MAX:
            raise InvalidField(
                f"media[{place}].uri", f"{uri_bytes} bytes", f"must have 1 to {MEDIA_URI_BYTES_MAX}"
            )
        mime_bytes = len(item.mime_type.encode())
        if mime_bytes > MEDIA_MIME_BYTES_MAX:
            raise InvalidField(
                f"media[{place}].mime_type",
                f"{mime_bytes} bytes",
                f"at most {MEDIA_MIME_BYTES_MAX}",
            )
    if visibility not in (0, 1, 2):
        raise InvalidField("visibility", str(visibility), "must be 0 (public), 1 or 2")
