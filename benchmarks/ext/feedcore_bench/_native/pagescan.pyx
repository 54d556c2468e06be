"""A strict walk over the wire bytes of feedcore.v1.GetFeedResponse, for checking every page of a
load run: which items, by whom, in which order, and whether the page is degraded.

Strict is what our encoder keeps and protobuf would forgive: no unknown fields, no wrong wire types,
no second value of a single field, no item without an id, text that is UTF-8, varints of at most 10
bytes. Contents, counts and the receipt's other fields are stepped over, not decoded.

Not for: requests, other messages, anything that must accept what a newer server may send.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef enum:
    ITEMS_MAX = 1024  # a page has at most 100; more is a fault of the server
    # what is wrong: index of FAULTS
    CUT = 1
    VARINT = 2
    FIELD = 3
    TWICE = 4
    NO_ID = 5
    MANY = 6
    BOOLEAN = 7

FAULTS = (
    "",
    "ends within a field",
    "varint of more than 64 bits",
    "field or wire type that is not known",
    "single field that comes twice",
    "item without content_id or author_id",
    "more than 1024 items",
    "bool that is neither 0 nor 1",
)

cdef struct Walk:
    const uint8_t *at
    const uint8_t *end
    int fault
    uint32_t tag
    uint64_t number  # of a varint or fixed field
    const uint8_t *data  # of a length-delimited field
    size_t size
    uint32_t seen  # bit of each field that came

cdef struct Page:
    size_t items
    uint64_t ids[ITEMS_MAX]
    uint64_t authors[ITEMS_MAX]
    double scores[ITEMS_MAX]
    const uint8_t *texts[3]
    size_t sizes[3]
    bint not_modified
    bint degraded


cdef inline Walk walk_of(const uint8_t *data, size_t size) noexcept nogil:
    cdef Walk walk
    walk.at = data
    walk.end = data + size
    walk.fault = 0
    walk.tag = walk.seen = 0
    walk.number = walk.size = 0
    walk.data = NULL
    return walk


cdef inline bint wrong(Walk *walk, int fault) noexcept nogil:
    walk.fault = fault
    return False


cdef bint varint(Walk *walk, uint64_t *value) noexcept nogil:
    cdef uint64_t found = 0
    cdef int shift = 0
    cdef uint8_t byte
    while walk.at < walk.end:
        byte = walk.at[0]
        walk.at += 1
        if shift == 63 and byte > 1:
            return wrong(walk, VARINT)
        found |= <uint64_t>(byte & 0x7F) << shift
        if byte < 0x80:
            value[0] = found
            return True
        shift += 7
    return wrong(walk, CUT)


cdef bint field(Walk *walk) noexcept nogil:
    """The next field; False at the end or at a fault."""
    cdef uint64_t tag, length
    if walk.at == walk.end or walk.fault:
        return False
    if not varint(walk, &tag):
        return False
    walk.tag = <uint32_t>tag
    if tag < 8 or tag > 0xFF:  # numbers 1 to 31: every field there is
        return wrong(walk, FIELD)
    if tag & 7 == 0:
        return varint(walk, &walk.number)
    if tag & 7 == 1:
        if walk.end - walk.at < 8:
            return wrong(walk, CUT)
        memcpy(&walk.number, walk.at, 8)
        walk.at += 8
        return True
    if tag & 7 != 2:
        return wrong(walk, FIELD)
    if not varint(walk, &length):
        return False
    if length > <uint64_t>(walk.end - walk.at):
        return wrong(walk, CUT)
    walk.data = walk.at
    walk.size = <size_t>length
    walk.at += length
    return True


cdef inline bint once(Walk *walk) noexcept nogil:
    """Marks a single field; False if it had come."""
    cdef uint32_t bit = <uint32_t>1 << (walk.tag >> 3)
    if walk.seen & bit:
        return wrong(walk, TWICE)
    walk.seen |= bit
    return True


cdef inline bint boolean(Walk *walk, bint *value) noexcept nogil:
    if walk.number > 1:
        return wrong(walk, BOOLEAN)
    value[0] = walk.number == 1
    return True


cdef int scan_item(Page *page, const uint8_t *data, size_t size) noexcept nogil:
    cdef Walk walk = walk_of(data, size)
    cdef size_t at = page.items
    if at == ITEMS_MAX:
        return MANY
    page.ids[at] = page.authors[at] = 0
    page.scores[at] = 0.0
    while field(&walk):
        if not once(&walk):
            break
        if walk.tag == 0x08:
            page.ids[at] = walk.number
        elif walk.tag == 0x10:
            page.authors[at] = walk.number
        elif walk.tag == 0x31:
            memcpy(&page.scores[at], &walk.number, 8)
        elif walk.tag not in (0x18, 0x22, 0x2A, 0x38):  # time, content, counts, reason
            wrong(&walk, FIELD)
    if not walk.fault and (page.ids[at] == 0 or page.authors[at] == 0):
        return NO_ID
    page.items += 1
    return walk.fault


cdef int scan_receipt(Page *page, const uint8_t *data, size_t size) noexcept nogil:
    cdef Walk walk = walk_of(data, size)
    while field(&walk):
        if walk.tag == 0x1A or walk.tag == 0x42:  # sources, filtered: repeated
            continue
        if not once(&walk):
            break
        if walk.tag == 0x10:
            boolean(&walk, &page.degraded)
        elif walk.tag not in (0x08, 0x20, 0x28, 0x30, 0x38, 0x48, 0x52, 0x58):
            wrong(&walk, FIELD)
    return walk.fault


cdef int scan(Page *page, Walk *walk) noexcept nogil:
    cdef int fault
    cdef int text
    while field(walk):
        if walk.tag == 0x0A:
            fault = scan_item(page, walk.data, walk.size)
            if fault:
                return fault
            continue
        if not once(walk):
            break
        if walk.tag == 0x12 or walk.tag == 0x1A or walk.tag == 0x22:
            text = <int>(walk.tag >> 3) - 2
            page.texts[text] = walk.data
            page.sizes[text] = walk.size
        elif walk.tag == 0x28:
            boolean(walk, &page.not_modified)
        elif walk.tag == 0x32:
            fault = scan_receipt(page, walk.data, walk.size)
            if fault:
                return fault
        else:
            wrong(walk, FIELD)
    return walk.fault


def scan_page(bytes body not None):
    """(content ids, author ids, scores, next_cursor, head, etag, not_modified, degraded) of the
    message. The first three are bytes, 8 an item, in the page's order: u64, u64, f64, all
    little-endian. ValueError says what is malformed, UnicodeDecodeError among them."""
    cdef Page page
    cdef Walk walk = walk_of(<const uint8_t *>PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body))
    cdef int fault
    cdef int at
    page.items = 0
    page.not_modified = page.degraded = False
    for at in range(3):
        page.texts[at] = NULL
        page.sizes[at] = 0
    fault = scan(&page, &walk)
    if fault:
        raise ValueError(
            f"page of {len(body)} bytes, item {page.items}, before byte"
            f" {walk.at - <const uint8_t *>PyBytes_AS_STRING(body)}: {FAULTS[fault]}"
        )
    return (
        PyBytes_FromStringAndSize(<const char *>page.ids, page.items * 8),
        PyBytes_FromStringAndSize(<const char *>page.authors, page.items * 8),
        PyBytes_FromStringAndSize(<const char *>page.scores, page.items * 8),
        PyUnicode_DecodeUTF8(<const char *>page.texts[0], page.sizes[0], "strict"),
        PyUnicode_DecodeUTF8(<const char *>page.texts[1], page.sizes[1], "strict"),
        PyUnicode_DecodeUTF8(<const char *>page.texts[2], page.sizes[2], "strict"),
        bool(page.not_modified),
        bool(page.degraded),
    )
