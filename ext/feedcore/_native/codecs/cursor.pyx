"""Compiled twin of feedcore.codecs.cursor, for handlers that have wire bytes and no strings.

Invariants: the texts are the twin's to the bit, and the same texts decode. A text that the twin
refuses with a reason is None or -1 here: the caller gives it to the twin, which names the reason.
Not for the generic path, which needs those reasons.
"""

from hashlib import blake2b

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stddef cimport size_t
from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint64_t
from libc.string cimport memcpy, memmove, memset

from feedcore._native.codecs.base64url cimport base64url_decode, base64url_encode, base64url_size
from feedcore._native.codecs.packed cimport ID_BYTES, Ids, be64, data_of, ids_of

from feedcore.codecs import cursor as twin
from feedcore.limits import CURSOR_AGE_MAX_MS, CURSOR_BYTES_MAX, SERVED_SET_MAX

Cursor = twin.Cursor

cdef extern from *:
    """
    /* base + (high << 8 * low | tail) without losing a bit; 0 if it does not fit 64 bits */
    static inline int fc_served_id(
        uint64_t base, uint64_t high, unsigned low, uint64_t tail, uint64_t *id
    ) {
        unsigned __int128 value;
        if (low > 8)
            value = high ? (unsigned __int128)1 << 64 : tail;
        else
            value = (unsigned __int128)high << 8 * low | tail;
        value += base;
        *id = (uint64_t)value;
        return value >> 64 == 0;
    }
    """
    uint64_t bswap64 "__builtin_bswap64"(uint64_t v) noexcept nogil
    int ctz "__builtin_ctz"(unsigned int v) noexcept nogil
    bint served_id "fc_served_id"(
        uint64_t base, uint64_t high, unsigned int low, uint64_t tail, uint64_t* id
    ) noexcept nogil

cdef enum:
    CURSOR_VERSION = 0xC1
    HEAD_VERSION = 0x81
    SIGNATURE_BYTES = 16
    HEADER_BYTES = 60  # where the fields of the header are: see _header
    HEAD_BYTES = 17
    TEXT_BYTES_MAX = 2048
    SEALED_BYTES_MAX = 1536  # what a text of TEXT_BYTES_MAX holds
    IDS_MAX = 192
    COUNT_MAX = 255  # ids a signed text could claim
    # 7 low bytes an id, a bit vector of 192 + 2^64 / 2^56 bits for the high ones
    CODE_BYTES_MAX = IDS_MAX * 7 + (IDS_MAX + 256) // 8 + 1

cdef int64_t AGE_MAX_MS = CURSOR_AGE_MAX_MS

# Buffers are of fixed size, so these numbers are here a second time.
assert (TEXT_BYTES_MAX, IDS_MAX) == (CURSOR_BYTES_MAX, SERVED_SET_MAX)
assert (HEADER_BYTES, HEAD_BYTES) == (twin.HEADER.size, twin.HEAD.size)
assert (CURSOR_VERSION, HEAD_VERSION) == (twin.CURSOR_VERSION, twin.HEAD_VERSION)
assert SIGNATURE_BYTES == twin.SIGNATURE_BYTES
assert HEADER_BYTES + CODE_BYTES_MAX + SIGNATURE_BYTES <= SEALED_BYTES_MAX


cdef inline void _put(uint8_t* to, uint64_t value) noexcept nogil:
    value = bswap64(value)
    memcpy(to, &value, 8)


cdef bytes _seal(uint8_t* payload, size_t size, bytes key):
    """The text of a payload, behind which there is room for the signature."""
    cdef bytes signed = PyBytes_FromStringAndSize(<char*>payload, size)
    cdef bytes signature = blake2b(signed, key=key, digest_size=SIGNATURE_BYTES).digest()
    cdef bytes text
    memcpy(payload + size, data_of(signature), SIGNATURE_BYTES)
    size += SIGNATURE_BYTES
    text = PyBytes_FromStringAndSize(NULL, base64url_size(size))
    base64url_encode(<uint8_t*>PyBytes_AS_STRING(text), payload, size)
    return text


cdef int64_t _open(
    const uint8_t* text, size_t size, bytes key, uint8_t version, int64_t minimum, uint8_t* sealed
) except -2:
    """Writes the payload of a text to `sealed`, of SEALED_BYTES_MAX; answers its size, or -1 if it
    is refused."""
    cdef int64_t whole
    cdef bytes signed, signature
    cdef const uint8_t* expected
    cdef uint8_t wrong = 0
    cdef int i
    if size > TEXT_BYTES_MAX:
        return -1
    whole = base64url_decode(sealed, text, size)
    if whole < minimum + SIGNATURE_BYTES or sealed[0] != version:
        return -1
    whole -= SIGNATURE_BYTES
    signed = PyBytes_FromStringAndSize(<char*>sealed, whole)
    signature = blake2b(signed, key=key, digest_size=SIGNATURE_BYTES).digest()
    expected = data_of(signature)
    # all of it, whatever the first bytes are: the time must not tell how many are right
    for i in range(SIGNATURE_BYTES):
        wrong |= expected[i] ^ sealed[whole + i]
    return -1 if wrong else whole


cdef int _low_bytes(uint64_t span, size_t n) noexcept nogil:
    """Low bytes an id that make the code of `n` ids over `span` shortest."""
    cdef int low, best = 0
    cdef uint64_t high, size, least = 0
    for low in range(ID_BYTES + 1):
        high = span >> 8 * low if low < ID_BYTES else 0
        # n more must not overflow; a code of this size is never the shortest
        if high > <uint64_t>INT64_MAX:
            high = INT64_MAX
        size = n * low + (n + high) // 8
        if low == 0 or size < least:
            best, least = low, size
    return best


cdef size_t _pack_served(Ids ids, int low, uint8_t* to) noexcept nogil:
    """Writes the code of ids that ascend, of CODE_BYTES_MAX at most; answers its size."""
    cdef size_t i, bit, lows = ids.count * low
    cdef size_t size = lows
    cdef uint64_t value, high
    if ids.count == 0:
        return 0
    high = ids.at[ids.count - 1] - ids.at[0]
    high = high >> 8 * low if low < ID_BYTES else 0
    size += (high + ids.count + 7) // 8
    memset(to + lows, 0, size - lows)
    for i in range(ids.count):
        value = ids.at[i] - ids.at[0]
        memcpy(to + i * low, &value, low)
        bit = i + (value >> 8 * low if low < ID_BYTES else 0)
        to[lows + (bit >> 3)] |= <uint8_t>(1 << (bit & 7))
    return size


cdef bytes seal_cursor(const cursor_t* cursor, bytes served, bytes key):
    """The text of a cursor. ValueError above SERVED_SET_MAX ids, for ids that do not ascend, and
    for an origin that is no byte."""
    cdef uint8_t sealed[SEALED_BYTES_MAX]
    cdef Ids ids = ids_of(served)
    cdef size_t i, size
    cdef int low = 0
    if ids.count > IDS_MAX:
        raise ValueError(f"served: {ids.count} ids; at most {IDS_MAX}")
    if not 0 <= cursor.origin <= 255:
        raise ValueError(f"origin: {cursor.origin}; 0 to 255")
    # the code of others would not stay within its bounds
    for i in range(1, ids.count):
        if ids.at[i] < ids.at[i - 1]:
            raise ValueError(f"served: {ids.at[i]} after {ids.at[i - 1]}; ids ascend")
    if ids.count:
        low = _low_bytes(ids.at[ids.count - 1] - ids.at[0], ids.count)
    sealed[0] = CURSOR_VERSION
    _put(sealed + 1, cursor.owner)
    _put(sealed + 9, cursor.head)
    _put(sealed + 17, cursor.low_water)
    _put(sealed + 25, cursor.ranked_at_ms)
    _put(sealed + 33, cursor.issued_ms)
    _put(sealed + 41, cursor.config_version)
    sealed[49] = <uint8_t>cursor.origin
    sealed[50] = <uint8_t>ids.count
    sealed[51] = <uint8_t>low
    _put(sealed + 52, ids.at[0] if ids.count else 0)
    size = _pack_served(ids, low, sealed + HEADER_BYTES)
    return _seal(sealed, HEADER_BYTES + size, key)


cdef int _tail(const uint8_t* code, unsigned int low, uint64_t* tail) noexcept nogil:
    """The low bytes of an id; -1 if they are more than 64 bits."""
    cdef unsigned int i
    tail[0] = 0
    memcpy(tail, code, min(low, <unsigned int>ID_BYTES))
    for i in range(ID_BYTES, low):
        if code[i]:
            return -1
    return 0


cdef int _unpack_served(
    const uint8_t* code, int64_t size, int n, unsigned int low, uint64_t base, uint64_t* ids
) noexcept nogil:
    """Writes the ids as they are coded; answers how many, or -1 if the code does not hold `n`."""
    cdef int64_t at, lows = n * <int64_t>low
    cdef int place = 0
    cdef unsigned int bits
    cdef uint64_t tail, high
    for at in range(lows, size):
        bits = code[at]
        while bits:
            if place == n:
                return -1
            high = (at - lows) * 8 + ctz(bits) - place
            if _tail(code + place * low, low, &tail) < 0:
                return -1
            if not served_id(base, high, low, tail, &ids[place]):
                return -1
            bits &= bits - 1
            place += 1
    return place if place == n else -1


cdef bytes _ordered(uint64_t* ids, int n):
    """The id array of ids that ascend, as all do that were sealed here, or of any others."""
    cdef int i, j, kept = 0
    cdef uint64_t value
    for i in range(n):
        value = ids[i]
        j = kept
        while j and ids[j - 1] > value:
            j -= 1
        if j and ids[j - 1] == value:
            continue
        memmove(ids + j + 1, ids + j, (kept - j) * ID_BYTES)
        ids[j] = value
        kept += 1
    return PyBytes_FromStringAndSize(<char*>ids, kept * ID_BYTES)


cdef bytes open_cursor(
    const uint8_t* text, size_t size, bytes key, uint64_t owner, int64_t now_ms, cursor_t* out
):
    """The served ids of a text's cursor, an id array; None where the twin raises. `out` is only
    whole if it is not None."""
    cdef uint8_t sealed[SEALED_BYTES_MAX]
    cdef uint64_t ids[COUNT_MAX]
    cdef int n
    cdef int64_t payload = _open(text, size, key, CURSOR_VERSION, HEADER_BYTES, sealed)
    if payload < 0:
        return None
    out.owner = be64(sealed + 1)
    out.head = be64(sealed + 9)
    out.low_water = be64(sealed + 17)
    out.ranked_at_ms = be64(sealed + 25)
    out.issued_ms = be64(sealed + 33)
    out.config_version = be64(sealed + 41)
    out.origin = sealed[49]
    if out.owner != owner:
        return None
    if (
        now_ms > 0 and <uint64_t>now_ms > out.issued_ms
        and <uint64_t>now_ms - out.issued_ms > <uint64_t>AGE_MAX_MS
    ):
        return None
    n = _unpack_served(
        sealed + HEADER_BYTES, payload - HEADER_BYTES, sealed[50], sealed[51], be64(sealed + 52),
        ids,
    )
    return _ordered(ids, n) if n >= 0 else None


cdef bytes seal_head(uint64_t owner, uint64_t head_id, bytes key):
    """The text that names the newest item of a scroll."""
    cdef uint8_t sealed[HEAD_BYTES + SIGNATURE_BYTES]
    sealed[0] = HEAD_VERSION
    _put(sealed + 1, owner)
    _put(sealed + 9, head_id)
    return _seal(sealed, HEAD_BYTES, key)


cdef int _open_head(
    const uint8_t* text, size_t size, bytes key, uint64_t owner, uint64_t* head_id
) except -2:
    """0, or -1 where the twin raises."""
    cdef uint8_t sealed[SEALED_BYTES_MAX]
    if _open(text, size, key, HEAD_VERSION, HEAD_BYTES, sealed) != HEAD_BYTES:
        return -1
    head_id[0] = be64(sealed + 9)
    return 0 if be64(sealed + 1) == owner else -1


cdef int64_t open_head(
    const uint8_t* text, size_t size, bytes key, uint64_t owner
) except -2:
    """The head id of a text; -1 where the twin raises, and for an id above 63 bits, which is no
    content's."""
    cdef uint64_t head_id = 0
    if _open_head(text, size, key, owner, &head_id) < 0 or head_id > <uint64_t>INT64_MAX:
        return -1
    return <int64_t>head_id


cdef bytes _utf8(str text):
    """The bytes of a text; what is not ASCII stays that way, and is refused for it."""
    return text.encode("utf-8", "surrogatepass")


def encode_cursor(cursor not None, bytes key not None):
    """See the twin."""
    cdef cursor_t fields
    fields.owner = cursor.owner
    fields.head = cursor.head
    fields.low_water = cursor.low_water
    fields.ranked_at_ms = cursor.ranked_at_ms
    fields.config_version = cursor.config_version
    fields.issued_ms = cursor.issued_ms
    fields.origin = cursor.origin
    return seal_cursor(&fields, cursor.served, key).decode("ascii")


def decode_cursor(str text not None, bytes key not None, uint64_t owner, int64_t now_ms):
    """The cursor of a text; None where the twin raises InvalidCursor."""
    cdef cursor_t fields
    cdef bytes raw = _utf8(text)
    cdef bytes served = open_cursor(
        data_of(raw), PyBytes_GET_SIZE(raw), key, owner, now_ms, &fields
    )
    if served is None:
        return None
    return Cursor(
        fields.owner, fields.head, fields.low_water, fields.ranked_at_ms, fields.config_version,
        fields.origin, fields.issued_ms, served,
    )


def encode_head(uint64_t owner, uint64_t head_id, bytes key not None):
    """See the twin."""
    return seal_head(owner, head_id, key).decode("ascii")


def decode_head(str text not None, bytes key not None, uint64_t owner):
    """The head id of a text; None where the twin raises InvalidCursor."""
    cdef bytes raw = _utf8(text)
    cdef uint64_t head_id = 0
    if _open_head(data_of(raw), PyBytes_GET_SIZE(raw), key, owner, &head_id) < 0:
        return None
    return head_id
