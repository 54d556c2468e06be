"""Parts of a feed reply: the receipt of a complete page, the answer to an etag, items in order.

The bytes are those of codecs.receipt and codecs.wire; the differential tests of pages hold that.
Fields ascending, defaults left out. Not for degraded pages: those are the generic path's.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint64_t

from feedcore._native.codecs.packed cimport ENTRY_BYTES, be64
from feedcore._native.codecs.wire cimport (
    TAG_ETAG,
    TAG_HEAD,
    TAG_NOT_MODIFIED,
    TAG_RECEIPT,
    blob_size,
    page_item_t,
    published_at_ms,
    put_blob,
    put_number,
    put_text,
    text_size,
    varint_size,
)

from feedcore.domain.receipt import Origin
from feedcore.domain.visibility import Verdict

cdef enum:
    RECEIPT_MAX = 1024  # three sources, seven reasons, ten numbers; the arm's name is 130 at most

cdef int ORIGIN_STORED = Origin.STORED
# (wire bytes of the name, verdict), in the order of their names
cdef list REASONS = [
    (verdict.name.lower().encode(), int(verdict))
    for verdict in sorted(Verdict, key=lambda one: one.name) if verdict is not Verdict.KEEP
]


cdef bytes encode_receipt(const receipt_t* receipt, bytes verdicts, str arm):
    """feedcore.v1.Receipt. `verdicts`: one byte an entry of the window."""
    cdef uint8_t reply[RECEIPT_MAX]
    cdef uint8_t* to = reply
    cdef bytes arm_text
    cdef const uint8_t* verdict = <const uint8_t*>PyBytes_AS_STRING(verdicts)
    cdef Py_ssize_t n = PyBytes_GET_SIZE(verdicts), i
    cdef uint64_t counts[256]
    for i in range(len(REASONS) + 1):
        counts[i] = 0
    for i in range(n):
        counts[verdict[i]] += 1
    to = put_number(to, 0x08, ORIGIN_STORED)
    to = _source(to, b"stored", receipt.stored)
    to = _source(to, b"outboxes", receipt.timelines)
    if receipt.contents:
        to = _source(to, b"content", receipt.contents)
    to = put_number(to, 0x20, receipt.pulled)
    to = put_number(to, 0x28, receipt.pulled)
    to = put_number(to, 0x30, receipt.followees)
    to = put_number(to, 0x38, n)
    if counts[0] < <uint64_t>n:
        for name, number in REASONS:
            i = number
            if counts[i]:
                to = _reason(to, name, counts[i])
    to = put_number(to, 0x48, receipt.ranking_version)
    if arm:
        arm_text = arm.encode()
        to = put_text(to, 0x52, arm_text)
    to = put_number(to, 0x58, receipt.generated_at_ms)
    return PyBytes_FromStringAndSize(<char*>reply, to - reply)


cdef uint8_t* _source(uint8_t* to, bytes name, uint64_t count) noexcept:
    """A SourceReport that is ok and current."""
    to[0] = 0x1A
    to[1] = <uint8_t>(2 + PyBytes_GET_SIZE(name) + 2 + (1 + varint_size(count) if count else 0))
    to = put_text(to + 2, 0x0A, name)
    to = put_number(to, 0x10, 1)
    return put_number(to, 0x20, count)


cdef uint8_t* _reason(uint8_t* to, bytes name, uint64_t count) noexcept:
    """One entry of the map `filtered`."""
    to[0] = 0x42
    to[1] = <uint8_t>(2 + PyBytes_GET_SIZE(name) + 1 + varint_size(count))
    to = put_text(to + 2, 0x0A, name)
    return put_number(to, 0x10, count)


cdef bytes encode_not_modified(bytes head, bytes etag, bytes receipt):
    """The answer to an etag that still names the page."""
    cdef size_t size = text_size(head) + text_size(etag) + 2
    cdef bytes body
    cdef uint8_t* to
    size += blob_size(PyBytes_GET_SIZE(receipt))
    body = PyBytes_FromStringAndSize(NULL, size)
    to = put_text(<uint8_t*>PyBytes_AS_STRING(body), TAG_HEAD, head)
    to = put_text(to, TAG_ETAG, etag)
    to = put_number(to, TAG_NOT_MODIFIED, 1)
    put_blob(to, TAG_RECEIPT, <const uint8_t*>PyBytes_AS_STRING(receipt), PyBytes_GET_SIZE(receipt))
    return body


cdef bytes encode_check(bytes entries, bytes verdicts, Py_ssize_t most, Py_ssize_t* count):
    """CheckNewResponse: how many have verdict KEEP (at most `most`, which is also put into
    `count`), whether there are more, when and which the newest is."""
    cdef uint8_t reply[64]
    cdef uint8_t* to = reply
    cdef const uint8_t* verdict = <const uint8_t*>PyBytes_AS_STRING(verdicts)
    cdef Py_ssize_t i, kept = 0, first = -1
    cdef uint64_t newest
    for i in range(PyBytes_GET_SIZE(verdicts)):
        if verdict[i] == 0:
            kept += 1
            if first < 0:
                first = i
    count[0] = min(kept, most)
    if kept:
        newest = ~be64(PyBytes_AS_STRING(entries) + first * ENTRY_BYTES)
        to = put_number(to, 0x08, <uint64_t>count[0])
        to = put_number(to, 0x10, kept > most)
        to = put_number(to, 0x18, published_at_ms(newest))
        to = put_number(to, 0x20, newest)
    return PyBytes_FromStringAndSize(<char*>reply, to - reply)


cdef bytes kept_ids(bytes entries, bytes verdicts, Py_ssize_t most):
    """The ids with verdict KEEP, newest first; None if there are more than `most`."""
    cdef Py_ssize_t i, n = 0, kept = verdicts.count(0)
    cdef const uint8_t* verdict = <const uint8_t*>PyBytes_AS_STRING(verdicts)
    cdef const char* entry = PyBytes_AS_STRING(entries)
    cdef bytes out
    cdef uint64_t* to
    if kept > most:
        return None
    out = PyBytes_FromStringAndSize(NULL, kept * 8)
    to = <uint64_t*>PyBytes_AS_STRING(out)
    for i in range(PyBytes_GET_SIZE(verdicts)):
        if verdict[i] == 0:
            to[n] = ~be64(entry + i * ENTRY_BYTES)
            n += 1
    return out


cdef bytes id_array(list idents):
    """In the order given."""
    cdef bytes out = PyBytes_FromStringAndSize(NULL, len(idents) * 8)
    cdef uint64_t* to = <uint64_t*>PyBytes_AS_STRING(out)
    cdef Py_ssize_t i
    for i in range(len(idents)):
        to[i] = idents[i]
    return out


cdef inline bint _before(const page_item_t* a, const page_item_t* b) noexcept nogil:
    """Descending by score, then id: as the generic path's tuples compare."""
    return a.score > b.score or (a.score == b.score and a.content_id > b.content_id)


cdef void sort_items(page_item_t* items, Py_ssize_t n) noexcept nogil:
    """Best first, in place. Insertion: they come almost in order."""
    cdef Py_ssize_t i, at
    cdef page_item_t moving
    for i in range(1, n):
        moving = items[i]
        at = i
        while at > 0 and _before(&moving, &items[at - 1]):
            items[at] = items[at - 1]
            at -= 1
        items[at] = moving
