"""Compiled twin of feedcore.codecs.wirebounds: counts what a message holds, before it is parsed.

Invariants: those of protoread (nothing outside the message is read, and the work is bounded by
`fields_max`); nothing is allocated while a message is checked; the walk goes no deeper than its
rules do, which are a tree. Not for values: protobuf's own parser has those.
"""

from cpython.bytes cimport PyBytes_GET_SIZE
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from feedcore._native.codecs.packed cimport data_of
from feedcore._native.codecs.protoread cimport (
    BLOB, GROUP, field_t, read_field, reader_t,
)

cdef enum:
    FAULT_MALFORMED = 0
    FAULT_FIELDS = 1
    FAULT_COUNT = 2
    FAULT_SHARED = 3
    FAULT_SIZE = 4

cdef enum:
    NONE = -1

cdef struct rule_t:
    int wire  # type of one value on the wire; NONE: there is no such field
    int element  # bytes of a value in a packed field, 1 for varints, 0 if it cannot be packed
    int slot  # where its entries are counted; NONE: a singular field
    int shared  # where they are counted together with those of other fields
    int child  # node of a message
    uint64_t count_max, shared_max
    uint64_t size_max  # bytes of a string

cdef struct node_t:
    rule_t* rules  # by field number
    unsigned int numbers
    int slots_from, slots_to  # counts within one entry

cdef struct fault_t:
    int kind, node
    unsigned int number
    uint64_t seen


cdef class WireBounds:
    """See the twin."""

    cdef node_t* nodes
    cdef uint64_t* counts
    cdef int node_count, slot_count
    cdef size_t fields_max
    cdef fault_t fault

    def __init__(self, nodes, size_t fields_max):
        cdef int place
        cdef int slots = 0
        self.fields_max = fields_max
        self.nodes = <node_t*>calloc(len(nodes), sizeof(node_t))
        if self.nodes == NULL:
            raise MemoryError()
        self.node_count = len(nodes)
        for place, node in enumerate(nodes):
            self._load(&self.nodes[place], node)
            slots = max(slots, self.nodes[place].slots_to)
        self.slot_count = slots
        self.counts = <uint64_t*>calloc(slots + 1, sizeof(uint64_t))
        if self.counts == NULL:
            raise MemoryError()

    def __dealloc__(self):
        cdef int place
        if self.nodes != NULL:
            for place in range(self.node_count):
                free(self.nodes[place].rules)
            free(self.nodes)
        free(self.counts)

    cdef int _load(self, node_t* node, source) except -1:
        cdef rule_t* rule
        cdef unsigned int number
        rules, node.slots_from, node.slots_to = source
        node.numbers = max([one.number for one in rules], default=-1) + 1
        node.rules = <rule_t*>calloc(node.numbers + 1, sizeof(rule_t))
        if node.rules == NULL:
            raise MemoryError()
        for number in range(node.numbers):
            node.rules[number].wire = NONE
        for one in rules:
            rule = &node.rules[one.number]
            rule.wire, rule.element, rule.slot = one.wire, one.element, one.slot
            rule.shared, rule.child = one.shared, one.child
            rule.count_max, rule.shared_max = one.count_max, one.shared_max
            rule.size_max = one.size_max
        return 0

    def check(self, bytes raw not None):
        """See the twin."""
        cdef reader_t reader
        reader.at = data_of(raw)
        reader.end = reader.at + PyBytes_GET_SIZE(raw)
        reader.fields_left = self.fields_max
        memset(self.counts, 0, self.slot_count * sizeof(uint64_t))
        if self._walk(0, &reader) == 0:
            return None
        return (
            self.fault.kind,
            self.fault.node,
            self.fault.number,
            self.fault.seen,
            tuple([self.counts[slot] for slot in range(self.slot_count)]),
        )

    cdef int _fail(self, int kind, int node, unsigned int number, uint64_t seen) noexcept:
        self.fault.kind = kind
        self.fault.node = node
        self.fault.number = number
        self.fault.seen = seen
        return -1

    cdef int _walk(self, int place, reader_t* reader) noexcept:
        """0 if the message of that node, from here to the reader's end, is within its bounds."""
        cdef node_t* node = &self.nodes[place]
        cdef rule_t* rule
        cdef field_t field
        cdef unsigned int number
        cdef int wire
        while reader.at < reader.end:
            if reader.fields_left == 0:
                return self._fail(FAULT_FIELDS, place, 0, self.fields_max)
            if read_field(reader, &field) < 0:
                # within a group the fields may have come to their bound
                if reader.fields_left == 0:
                    return self._fail(FAULT_FIELDS, place, 0, self.fields_max)
                return self._fail(FAULT_MALFORMED, place, 0, 0)
            number = field.tag >> 3
            wire = field.tag & 7
            if number >= node.numbers or wire == GROUP:
                continue
            rule = &node.rules[number]
            if wire == rule.wire:
                if rule.slot != NONE and self._count(place, number, rule, 1) < 0:
                    return -1
                if wire == BLOB and self._blob(place, number, rule, &field, reader) < 0:
                    return -1
            elif wire == BLOB and rule.element and rule.slot != NONE:
                if self._count(place, number, rule, values_in(&field, rule.element)) < 0:
                    return -1
        return 0

    cdef int _count(
        self, int place, unsigned int number, const rule_t* rule, uint64_t more
    ) noexcept:
        self.counts[rule.slot] += more
        if self.counts[rule.slot] > rule.count_max:
            return self._fail(FAULT_COUNT, place, number, self.counts[rule.slot])
        if rule.shared != NONE:
            self.counts[rule.shared] += more
            if self.counts[rule.shared] > rule.shared_max:
                return self._fail(FAULT_SHARED, place, number, self.counts[rule.shared])
        return 0

    cdef int _blob(
        self, int place, unsigned int number, const rule_t* rule, const field_t* field,
        reader_t* reader,
    ) noexcept:
        cdef node_t* child
        cdef reader_t inner
        if rule.child == NONE:
            if field.size > rule.size_max:
                return self._fail(FAULT_SIZE, place, number, field.size)
            return 0
        if rule.slot != NONE:  # an entry of its own; singular messages are merged
            child = &self.nodes[rule.child]
            memset(
                &self.counts[child.slots_from], 0,
                (child.slots_to - child.slots_from) * sizeof(uint64_t),
            )
        inner.at = field.text
        inner.end = field.text + field.size
        inner.fields_left = reader.fields_left
        if self._walk(rule.child, &inner) < 0:
            return -1
        reader.fields_left = inner.fields_left
        return 0


cdef uint64_t values_in(const field_t* field, int element) noexcept:
    """Of a packed field."""
    cdef size_t at
    cdef uint64_t found = 0
    if element > 1:
        return field.size // element
    for at in range(field.size):
        found += field.text[at] < 0x80
    return found
