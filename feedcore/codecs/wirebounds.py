"""Counts what an encoded message holds, before it is parsed. The twin of _native.codecs.wirebounds.

A parser builds an object for each entry of a repeated field, and an empty entry has two bytes: a
message of 8 MB can ask for 4 million objects. The walk here builds nothing and ends at the first
field beyond its bound, with the field, the number seen and the counts on the way there.

Rules are a tree: a *node* for each message type at its place, a *rule* for each of its fields. A
new entry of a repeated message is counted from 0; a singular message that comes again is merged
with what came before, as protobuf does, and goes on counting. A field with another wire type than
its rule's is unknown, as it is for protobuf; all fields together are bounded, known or not.

Invariant: MALFORMED is said only of what protobuf refuses, too. Not for values, nor for finding all
faults of a message: protobuf's own parser comes next.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

VARINT, FIXED64, BLOB, GROUP, GROUP_END, FIXED32 = range(6)
VARINT_BYTES_MAX = 10  # 64 bits in groups of 7
HEAD_BYTES_MAX = 5  # of tags and lengths, which are 32 bits
DEPTH_MAX = 100  # groups in groups: protobuf's own default
FIXED_BYTES = {FIXED64: 8, FIXED32: 4}

# What is wrong with a message.
MALFORMED = 0  # the bytes are no fields
FIELDS = 1  # more fields than `fields_max`, known or not
COUNT = 2  # more entries of a repeated field or a map than it may have
SHARED = 3  # more entries of several fields together
SIZE = 4  # a longer string

NONE = -1


class Rule(NamedTuple):
    """One field. `wire`: type of one value; `element`: bytes of a value where they may be packed, 1
    for varints, 0 where not; `slot`, `shared`: where entries are counted; `child`: node of a
    message. NONE where there is none.
    """

    number: int
    wire: int
    element: int = 0
    slot: int = NONE
    shared: int = NONE
    child: int = NONE
    count_max: int = 0
    shared_max: int = 0
    size_max: int = 0


class Node(NamedTuple):
    """One message type at its place; the counts of one entry are in slots_from to slots_to."""

    rules: Sequence[Rule]
    slots_from: int
    slots_to: int


class Found(NamedTuple):
    """What is wrong: the fault, the node and number of its field, how many or how long, and all
    counts at that moment.
    """

    fault: int
    node: int
    number: int
    seen: int
    counts: tuple[int, ...]


class Malformed(ValueError):
    """Bytes that are no fields."""


class Spent(Malformed):
    """More fields than the reader may read."""


class Reader:
    """The fields of `raw[at:end]`, one after the other; `fields_left` bounds how many."""

    __slots__ = ("at", "end", "fields_left", "raw")

    def __init__(self, raw: bytes, at: int, end: int, fields_left: int) -> None:
        self.raw = raw
        self.at = at
        self.end = end
        self.fields_left = fields_left

    def field(self) -> tuple[int, int, int, int]:
        """(number, wire type, start, end) of the next field's value. Raises Malformed."""
        tag = self._tag()
        number, wire = tag >> 3, tag & 7
        if number == 0:
            raise Malformed
        start = self.at
        if wire == GROUP:
            self._skip_group(tag)
        else:
            start = self._skip_value(wire)
        return number, wire, start, self.at

    def _varint(self, bytes_max: int) -> int:
        value = 0
        for index in range(bytes_max):
            if self.at >= self.end:
                break
            byte = self.raw[self.at]
            self.at += 1
            value |= (byte & 0x7F) << (7 * index)
            if byte < 0x80:
                return value
        raise Malformed

    def _tag(self) -> int:
        if self.fields_left == 0:
            raise Spent
        self.fields_left -= 1
        tag = self._varint(HEAD_BYTES_MAX)
        if tag >= 1 << 32:
            raise Malformed
        return tag

    def _skip_value(self, wire: int) -> int:
        """Passes a value by; where it begins."""
        start, size = self.at, 0
        if wire == VARINT:
            self._varint(VARINT_BYTES_MAX)
        elif wire == BLOB:
            size = self._varint(HEAD_BYTES_MAX)
            start = self.at
            if size >= 1 << 31:
                raise Malformed
        elif wire in FIXED_BYTES:
            size = FIXED_BYTES[wire]
        else:
            raise Malformed
        if size > self.end - self.at:
            raise Malformed
        self.at += size
        return start

    def _skip_group(self, tag: int) -> None:
        open_tags = [tag]
        while open_tags:
            tag = self._tag()
            if tag & 7 == GROUP:
                if len(open_tags) == DEPTH_MAX:
                    raise Malformed
                open_tags.append(tag)
            elif tag & 7 == GROUP_END:
                if tag != open_tags.pop() + 1:
                    raise Malformed
            else:
                self._skip_value(tag & 7)


class _Beyond(Exception):
    """A bound is passed."""

    def __init__(self, fault: int, node: int, number: int, seen: int) -> None:
        super().__init__(fault, node, number, seen)
        self.found = (fault, node, number, seen)


class WireBounds:
    """The rules of one message type; the message itself is node 0."""

    def __init__(self, nodes: Sequence[Node], fields_max: int) -> None:
        self._slots = [(node.slots_from, node.slots_to) for node in nodes]
        self._rules = [{rule.number: rule for rule in node.rules} for node in nodes]
        self._counts = [0] * max(to for _, to in self._slots)
        self._fields_max = fields_max

    def check(self, raw: bytes) -> Found | None:
        """None if the message is within its bounds, else the first thing beyond them."""
        self._counts = [0] * len(self._counts)
        try:
            self._walk(0, Reader(raw, 0, len(raw), self._fields_max))
        except _Beyond as beyond:
            return Found(*beyond.found, tuple(self._counts))
        return None

    def _walk(self, node: int, reader: Reader) -> None:
        rules = self._rules[node]
        while reader.at < reader.end:
            try:
                number, wire, start, end = reader.field()
            except Spent:
                raise _Beyond(FIELDS, node, 0, self._fields_max) from None
            except Malformed:
                fault = MALFORMED if reader.fields_left else FIELDS
                seen = 0 if reader.fields_left else self._fields_max
                raise _Beyond(fault, node, 0, seen) from None
            rule = rules.get(number)
            if rule is None:
                continue
            if wire == rule.wire:
                if rule.slot != NONE:
                    self._count(node, rule, 1)
                if wire == BLOB:
                    self._blob(node, rule, reader, start, end)
            elif wire == BLOB and rule.element and rule.slot != NONE:
                self._count(node, rule, _values_in(reader.raw[start:end], rule.element))

    def _count(self, node: int, rule: Rule, more: int) -> None:
        counts = self._counts
        counts[rule.slot] += more
        if counts[rule.slot] > rule.count_max:
            raise _Beyond(COUNT, node, rule.number, counts[rule.slot])
        if rule.shared != NONE:
            counts[rule.shared] += more
            if counts[rule.shared] > rule.shared_max:
                raise _Beyond(SHARED, node, rule.number, counts[rule.shared])

    def _blob(self, node: int, rule: Rule, reader: Reader, start: int, end: int) -> None:
        if rule.child == NONE:
            if end - start > rule.size_max:
                raise _Beyond(SIZE, node, rule.number, end - start)
            return
        if rule.slot != NONE:  # an entry of its own; singular messages are merged
            first, last = self._slots[rule.child]
            self._counts[first:last] = [0] * (last - first)
        inner = Reader(reader.raw, start, end, reader.fields_left)
        self._walk(rule.child, inner)
        reader.fields_left = inner.fields_left


def _values_in(packed: bytes, element: int) -> int:
    if element > 1:
        return len(packed) // element
    return sum(byte < 0x80 for byte in packed)
