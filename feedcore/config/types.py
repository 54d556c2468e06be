"""Types that settings are made of: addresses, paths, secrets. Each says what is wrong with a value
that it refuses.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    JsonValue,
    PlainSerializer,
    SecretStr,
    SerializationInfo,
)

PORT_MAX = 65_535


def split_address(text: str) -> tuple[str, int]:
    """(host, port) of "HOST:PORT" or "[V6]:PORT"; ValueError says what is wrong."""
    host, colon, port = text.rpartition(":")
    if not colon or not host:
        raise ValueError('must be "HOST:PORT", such as 127.0.0.1:50051')
    if not port.isascii() or not port.isdigit() or int(port) > PORT_MAX:
        raise ValueError(f"port must be a number from 0 (any free port) to {PORT_MAX}")
    bracketed = host.startswith("[") and host.endswith("]")
    if ":" in host and not bracketed:
        raise ValueError('an IPv6 host needs brackets, such as "[::1]:50051"')
    return (host[1:-1] if bracketed else host), int(port)


def _address(text: str) -> str:
    split_address(text)
    return text


def _address_or_empty(text: str) -> str:
    return _address(text) if text else text


def _parts(value: Any) -> Any:
    return (
        [part.strip() for part in value.split(",") if part.strip()]
        if isinstance(value, str)
        else value
    )


def _path_or_none(value: Any) -> Any:
    return None if value == "" else value


Address = Annotated[str, AfterValidator(_address)]
OptionalPath = Annotated[Path | None, BeforeValidator(_path_or_none)]
OptionalAddress = Annotated[str, AfterValidator(_address_or_empty)]
# One text with commas, or a list in TOML. Empty: none.
Addresses = Annotated[tuple[Address, ...], BeforeValidator(_parts)]


def _serialize_secret(value: SecretStr, info: SerializationInfo) -> str:
    """As it is for a child process (`REVEAL`), stars for everybody else."""
    return value.get_secret_value() if info.context == REVEAL else str(value)


REVEAL = "reveal secrets"  # serialization context of the pipe to child processes
Secret = Annotated[SecretStr, PlainSerializer(_serialize_secret)]
HOT: dict[str, JsonValue] = {"hot": True}


class Section(BaseModel):
    """Settings below one name: valid, and never changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
