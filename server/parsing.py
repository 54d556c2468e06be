"""Raw bytes -> request message, or an error that names the field at fault.

What a request may hold is counted before it is parsed: a parser builds every entry of a list, and
a handler could count them only then. Transports hand over raw bytes, because gRPC libraries answer
a request that does not parse with INTERNAL and no reason. The parser of protobuf does not name the
field either, so a request that fails is walked once more here.
"""

from __future__ import annotations

from typing import cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message

from feedcore import native
from feedcore.codecs.bounds import Policy
from feedcore.codecs.wirebounds import BLOB, Malformed, Reader
from feedcore.errors import InvalidField, RequestTooLarge

_NESTING_MAX = 32  # our messages nest 4 deep; deeper is no message of ours


class Parser:
    """Parses the requests of one type. `plan` has their bounds. Raises Unbounded where the policy
    lacks some.
    """

    __slots__ = ("_check", "_descriptor", "_from_string", "plan")

    def __init__(self, request_class: type[Message], policy: Policy) -> None:
        self._descriptor = cast(Descriptor, request_class.DESCRIPTOR)  # one of its two classes
        self._from_string = request_class.FromString
        self.plan = policy.plan(self._descriptor)
        self._check = native.WireBounds(self.plan.nodes, self.plan.fields_max).check

    def parse(self, raw: bytes) -> Message:
        """The parsed message. Raises RequestTooLarge; InvalidField if the bytes are not a message
        of the class, or one beyond its bounds.
        """
        if len(raw) > self.plan.bytes_max:
            raise RequestTooLarge(len(raw), self.plan.bytes_max)
        found = self._check(raw)
        if found is not None:
            raise self.plan.error(found, len(raw))
        try:
            return self._from_string(raw)
        except DecodeError as error:
            fault = _bad_string(self._descriptor, raw, 0)
            if fault is not None:
                raise InvalidField(fault, "not valid UTF-8", "strings are UTF-8") from error
            raise self.plan.malformed(len(raw)) from error


def _bad_string(descriptor: Descriptor, raw: bytes, depth: int) -> str | None:
    """Path of the first string field that is not UTF-8, or None if there is none or the bytes are
    cut."""
    reader = Reader(raw, 0, len(raw), len(raw))
    while reader.at < reader.end and depth < _NESTING_MAX:
        try:
            number, wire, start, end = reader.field()
        except Malformed:
            return None
        field = descriptor.fields_by_number.get(number)
        if wire != BLOB or field is None:
            continue
        if field.type == FieldDescriptor.TYPE_STRING:
            try:
                raw[start:end].decode("utf-8")
            except UnicodeDecodeError:
                return field.name
        elif field.message_type is not None:
            inner = _bad_string(field.message_type, raw[start:end], depth + 1)
            if inner is not None:
                return f"{field.name}.{inner}"
    return None
