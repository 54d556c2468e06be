"""Bounds of a message type: from its descriptor, and a table that bounds every list and string.

The table says how many entries a repeated field or a map may have, and how many bytes a string. All
else follows: how many bytes an encoded message may have, how many fields, and what is counted
before it is parsed (`wirebounds`). Nothing is allowed by default: a message with a list or string
that the table does not know has no plan (Unbounded names what is missing), and neither has one that
may hold itself. Not for rules between fields, nor for what values mean: services have those.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from feedcore.codecs.protowire import varint
from feedcore.codecs.wirebounds import (
    BLOB,
    COUNT,
    FIELDS,
    FIXED32,
    FIXED64,
    NONE,
    SHARED,
    SIZE,
    VARINT,
    VARINT_BYTES_MAX,
    Found,
    Node,
    Rule,
)
from feedcore.errors import FeedcoreError, InvalidField

_WIRE = {
    FieldDescriptor.TYPE_DOUBLE: FIXED64,
    FieldDescriptor.TYPE_FIXED64: FIXED64,
    FieldDescriptor.TYPE_SFIXED64: FIXED64,
    FieldDescriptor.TYPE_FLOAT: FIXED32,
    FieldDescriptor.TYPE_FIXED32: FIXED32,
    FieldDescriptor.TYPE_SFIXED32: FIXED32,
    FieldDescriptor.TYPE_STRING: BLOB,
    FieldDescriptor.TYPE_BYTES: BLOB,
    FieldDescriptor.TYPE_MESSAGE: BLOB,
}
_VALUE_BYTES = {VARINT: VARINT_BYTES_MAX, FIXED64: 8, FIXED32: 4}
# Beside what a contract has: a caller may know a newer one, and an encoder may write a field twice.
UNKNOWN_FIELDS = 64
FIELDS_SLACK = 2


class Bound(NamedTuple):
    """`entries`: of a list or a map; `size`: bytes of a string, also of each that is an entry
    or a key. Lists of one message with the same `shared` have at most `entries` together.
    """

    entries: int = 0
    size: int = 0
    shared: str = ""


class Unbounded(TypeError):
    """A message type without a plan: the names of what has no bound."""


@dataclass(frozen=True, slots=True)
class Policy:
    """Where bounds come from. `fields`: by full name, "package.Message.field". `bytes_max`: of any
    message. `spare_bytes`: what a message may have beyond its contract, for a newer one. `what`:
    what refusals call the message.
    """

    fields: Mapping[str, Bound]
    bytes_max: int
    spare_bytes: int
    what: str = "request"

    def plan(self, descriptor: Descriptor) -> Plan:
        """The plan of a message type. Raises Unbounded."""
        return Plan(descriptor, self)


class _Place(NamedTuple):
    """Where a node is: the node above, the field that holds it, and the slot that counts it."""

    parent: int
    field: str
    slot: int


class Plan:
    """What one message type may hold. `nodes` and `fields_max` are what WireBounds is made of;
    `lists`: whether anything is counted at all.
    """

    def __init__(self, descriptor: Descriptor, policy: Policy) -> None:
        self.name = descriptor.full_name
        self._what = policy.what
        self._places: list[_Place] = []
        self._nodes: list[Node | None] = []
        self._names: list[dict[int, str]] = []
        self._together: list[dict[int, list[str]]] = []
        self._slots = 0
        self._missing: list[str] = []
        size, fields = self._add(descriptor, policy.fields, _Place(NONE, "", NONE), ())
        if self._missing:
            raise Unbounded(f"{self.name}: no bound for {', '.join(self._missing)}")
        self.bytes_max = min(size + policy.spare_bytes, policy.bytes_max)
        # a field has a byte at least
        self.fields_max = min(FIELDS_SLACK * fields + UNKNOWN_FIELDS, self.bytes_max)
        self.nodes = [node for node in self._nodes if node is not None]
        self.lists = self._slots > 0

    def error(self, found: Found, size: int) -> FeedcoreError:
        """What a caller is told of a message of `size` bytes that is beyond its bounds."""
        fault, node, number, seen, counts = found
        if fault == FIELDS:
            return InvalidField(self._what, f"more than {seen} fields", f"at most {seen}")
        if fault not in (COUNT, SHARED, SIZE):
            return self.malformed(size)
        path = "".join(reversed(list(self._path(node, counts)))) + self._names[node][number]
        rule = next(one for one in self.nodes[node].rules if one.number == number)
        if fault == COUNT:
            return InvalidField(path, f"{seen} or more", f"at most {rule.count_max}")
        if fault == SHARED:
            together = ", ".join(self._together[node][rule.shared])
            bound = f"at most {rule.shared_max} of {together} together"
            return InvalidField(path, f"entry {seen} of the message", bound)
        if rule.slot != NONE:
            path += f"[{counts[rule.slot] - 1}]"
        return InvalidField(path, f"{seen} bytes", f"at most {rule.size_max} bytes")

    def malformed(self, size: int) -> InvalidField:
        """What a caller is told of bytes that are no such message."""
        seen = f"{size} bytes that do not parse"
        return InvalidField(self._what, seen, f"must be one encoded {self.name}")

    def _path(self, node: int, counts: tuple[int, ...]) -> Iterator[str]:
        """Names of the fields that hold a node, innermost first, with the place in each list."""
        place = self._places[node]
        while place.parent != NONE:
            index = "" if place.slot == NONE else f"[{counts[place.slot] - 1}]"
            yield f"{place.field}{index}."
            place = self._places[place.parent]

    def _add(
        self,
        descriptor: Descriptor,
        bounds: Mapping[str, Bound],
        place: _Place,
        above: tuple[str, ...],
        entry: Bound | None = None,
    ) -> tuple[int, int]:
        """Adds a message type at its place; (bytes, fields) that one of it has at most. `entry`: of
        a map, whose key and value have its bound.
        """
        if descriptor.full_name in above:
            self._missing.append(f"{descriptor.full_name} (it may hold itself)")
            return 0, 0
        node = len(self._nodes)
        self._nodes.append(None)
        self._places.append(place)
        self._names.append({field.number: field.name for field in descriptor.fields})
        self._together.append({})
        slots_from = self._slots
        shared: dict[str, int] = {}
        rules, total_bytes, total_fields = [], 0, 0
        for field in descriptor.fields:
            bound = entry or bounds.get(field.full_name)
            bound = self._checked(field, bound)
            slot = self._new_slot() if field.is_repeated else NONE
            together = NONE
            if bound.shared:
                if bound.shared not in shared:
                    shared[bound.shared] = self._new_slot()
                together = shared[bound.shared]
                self._together[node].setdefault(together, []).append(field.name)
            child, one_bytes, one_fields = NONE, 0, 0
            if field.message_type is not None:
                child = len(self._nodes)
                inside = bound if field.message_type.GetOptions().map_entry else None
                one_bytes, one_fields = self._add(
                    field.message_type,
                    bounds,
                    _Place(node, field.name, slot),
                    (*above, descriptor.full_name),
                    inside,
                )
            rule = _rule(field, bound, slot, together, child)
            rules.append(rule)
            many = bound.entries if field.is_repeated else 1
            total_bytes += many * _bytes_of(rule, one_bytes)
            total_fields += many * (1 + one_fields)
        self._nodes[node] = Node(rules, slots_from, self._slots)
        return total_bytes, total_fields

    def _checked(self, field: FieldDescriptor, bound: Bound | None) -> Bound:
        bound = bound or Bound()
        text = field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES)
        if (field.is_repeated and not bound.entries) or (text and not bound.size):
            self._missing.append(field.full_name)
        elif field.type == FieldDescriptor.TYPE_GROUP:
            self._missing.append(f"{field.full_name} (a group)")
        return bound

    def _new_slot(self) -> int:
        self._slots += 1
        return self._slots - 1


def _rule(field: FieldDescriptor, bound: Bound, slot: int, shared: int, child: int) -> Rule:
    wire = _WIRE.get(field.type, VARINT)
    element = {VARINT: 1, FIXED32: 4, FIXED64: 8}.get(wire, 0) if field.is_repeated else 0
    return Rule(
        number=field.number,
        wire=wire,
        element=element,
        slot=slot,
        shared=shared,
        child=child,
        count_max=bound.entries,
        shared_max=bound.entries if shared != NONE else 0,
        size_max=bound.size if child == NONE else 0,
    )


def _bytes_of(rule: Rule, message_bytes: int) -> int:
    """Of one value and its tag, at most."""
    tag = len(varint(rule.number << 3 | rule.wire))
    if rule.wire != BLOB:
        return tag + _VALUE_BYTES[rule.wire]
    size = message_bytes if rule.child != NONE else rule.size_max
    return tag + len(varint(size)) + size
