"""Raw bytes -> request message, or an error that names the field at fault.

Transports hand over raw bytes, because gRPC libraries answer a request that does not parse with
INTERNAL and no reason. The parser of protobuf does not name the field either, so a request that
fails is walked once more here.
"""

from __future__ import annotations

from typing import cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message

from feedcore.errors import InvalidField

_VARINT_BYTES_MAX = 10  # 64 bits in groups of 7
_NESTING_MAX = 32  # our messages nest 4 deep; deeper is no message of ours


def parse(request_class: type[Message], raw: bytes) -> Message:
    """The parsed message. Raises InvalidField if the bytes are not a message of the class."""
    try:
        return request_class.FromString(raw)
    except DecodeError as error:
        descriptor = cast(Descriptor, request_class.DESCRIPTOR)  # one of its two classes
        fault = _bad_string(descriptor, raw, 0)
        if fault is not None:
            raise InvalidField(fault, "not valid UTF-8", "strings are UTF-8") from error
        raise InvalidField(
            "request",
            f"{len(raw)} bytes that do not parse",
            f"must be one encoded {descriptor.full_name}",
        ) from error


def _bad_string(descriptor: Descriptor, raw: bytes, depth: int) -> str | None:
    """Path of the first string field that is not UTF-8, or None if there is none or the bytes are
    cut."""
    at = 0
    while at < len(raw) and depth < _NESTING_MAX:
        step = _next_field(raw, at)
        if step is None:
            return None
        number, value, at = step
        field = descriptor.fields_by_number.get(number)
        if value is None or field is None:
            continue
        if field.type == FieldDescriptor.TYPE_STRING:
            try:
                value.decode("utf-8")
            except UnicodeDecodeError:
                return field.name
        elif field.message_type is not None:
            inner = _bad_string(field.message_type, value, depth + 1)
            if inner is not None:
                return f"{field.name}.{inner}"
    return None


def _next_field(raw: bytes, at: int) -> tuple[int, bytes | None, int] | None:
    """(field number, value if length-delimited, next offset) of the field at `at`; None if cut."""
    tag, at = _varint(raw, at)
    if at < 0:
        return None
    wire_type = tag & 7
    value = None
    if wire_type == 0:
        _, at = _varint(raw, at)
    elif wire_type == 1:
        at += 8
    elif wire_type == 5:
        at += 4
    elif wire_type == 2:
        length, at = _varint(raw, at)
        if at < 0:
            return None
        value = raw[at : at + length]
        at += length
    else:
        return None
    return (tag >> 3, value, at) if 0 <= at <= len(raw) else None


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    """(value, next offset); the offset is -1 if the number is cut or too long."""
    value = 0
    for index in range(_VARINT_BYTES_MAX):
        if at + index >= len(raw):
            break
        byte = raw[at + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, at + index + 1
    return 0, -1
