"""gRPC's own framing over HTTP/2: length-prefixed messages, metadata, status text, timeouts, gzip.

Pure functions on bytes; no HTTP/2 and no I/O. Metadata of a request is kept as it came, packed as
`u16 name length | u32 value length | name | value` one after the other, and is decoded only when a
handler looks at it. Text of metadata is Latin-1 both ways: HTTP allows any byte from 0x80, and so
every value that came in can go out again unchanged.

Source of the formats: gRPC over HTTP2, doc/PROTOCOL-HTTP2.md of the gRPC project.
"""
import binascii
import zlib

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcmp, memcpy

cdef enum:
    FIRST_PIECE = 16384  # a body's buffer begins with one DATA frame and doubles

GZIP_WBITS = 31  # zlib's number for the gzip format with the largest window
GZIP_LEVEL = 1  # replies are small and sent once: speed over size
# Not metadata although their characters would do: HTTP/2 forbids them (RFC 9113, 8.2.2), or the
# transport writes them itself.
NOT_METADATA = frozenset({
    "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade",
    "te", "content-type", "content-length",
})


# Of gRPC, but given by servers as trailing metadata: when to retry (gRFC A6); google.rpc.Status.
PUSHBACK = "grpc-retry-pushback-ms"
DETAILS = "grpc-status-details-bin"


class BadMetadata(ValueError):
    """A name or value that may not travel as metadata."""


class BadEncoding(ValueError):
    """A message that does not decompress."""


class TooLarge(ValueError):
    """A message that decompresses to more than the limit."""


cdef int reader_feed(
    reader_t *reader, const uint8_t **data, size_t *left, size_t limit,
    const uint8_t **message, size_t *length
) noexcept:
    """Takes from `data` up to the end of one message. READ_MESSAGE: `message` points at it, until
    the next call; READ_MORE: all was taken and more must come; below 0: the stream is at fault. The
    limit is checked against the prefix, before anything is kept."""
    cdef size_t take
    if reader.have < PREFIX_BYTES:
        take = PREFIX_BYTES - reader.have
        if take > left[0]:
            take = left[0]
        memcpy(&reader.prefix[reader.have], data[0], take)
        reader.have += <uint8_t>take
        data[0] += take
        left[0] -= take
        if reader.have < PREFIX_BYTES:
            return READ_MORE
        if reader.prefix[0] > 1:
            return READ_BAD_FLAG
        reader.length = (
            (<uint32_t>reader.prefix[1] << 24) | (<uint32_t>reader.prefix[2] << 16)
            | (<uint32_t>reader.prefix[3] << 8) | reader.prefix[4]
        )
        if reader.length > limit:
            return READ_TOO_LARGE
    if reader.used == 0 and left[0] >= reader.length:
        message[0] = data[0]
        take = reader.length
    else:
        take = reader.length - reader.used
        if take > left[0]:
            take = left[0]
        if take and not reader_keep(reader, data[0], take):
            return READ_NO_MEMORY
        message[0] = reader.body
    data[0] += take
    left[0] -= take
    if reader.used + (take if reader.used == 0 else 0) < reader.length:
        return READ_MORE
    length[0] = reader.length
    reader.have = 0
    reader.used = 0
    return READ_MESSAGE


cdef bint reader_keep(reader_t *reader, const uint8_t *data, size_t count) noexcept:
    """Appends to the part kept; memory grows with what came, not with what was announced."""
    cdef size_t capacity = reader.capacity
    cdef uint8_t *grown
    if reader.used + count > capacity:
        if capacity == 0:
            capacity = FIRST_PIECE
        while capacity < reader.used + count:
            capacity *= 2
        if capacity > reader.length:
            capacity = reader.length
        grown = <uint8_t *>realloc(reader.body, capacity)
        if grown == NULL:
            return False
        reader.body = grown
        reader.capacity = capacity
    memcpy(reader.body + reader.used, data, count)
    reader.used += count
    return True


cdef void reader_clear(reader_t *reader) noexcept:
    """Frees what is kept; the reader is fresh again."""
    free(reader.body)
    reader.body = NULL
    reader.capacity = 0
    reader.used = 0
    reader.have = 0


cdef int64_t timeout_ns(const uint8_t *value, size_t length) noexcept:
    """Nanoseconds of a grpc-timeout: 1 to 8 digits and a unit; BAD_TIMEOUT for anything else. The
    largest, 99,999,999 hours, is clamped to 2^62 ns (146 years)."""
    cdef int64_t number = 0
    cdef int64_t unit
    cdef size_t at
    if length < 2 or length > 9:
        return BAD_TIMEOUT
    for at in range(length - 1):
        if value[at] < c"0" or value[at] > c"9":
            return BAD_TIMEOUT
        number = number * 10 + (value[at] - c"0")
    if value[length - 1] == c"H":
        unit = 3_600_000_000_000
    elif value[length - 1] == c"M":
        unit = 60_000_000_000
    elif value[length - 1] == c"S":
        unit = 1_000_000_000
    elif value[length - 1] == c"m":
        unit = 1_000_000
    elif value[length - 1] == c"u":
        unit = 1_000
    elif value[length - 1] == c"n":
        unit = 1
    else:
        return BAD_TIMEOUT
    if number > (<int64_t>1 << 62) // unit:
        return <int64_t>1 << 62
    return number * unit


cdef bint is_grpc_type(const uint8_t *value, size_t length) noexcept:
    """application/grpc, alone or with +subtype or ;parameters."""
    if length < 16 or memcmp(value, b"application/grpc", 16) != 0:
        return False
    return length == 16 or value[16] == c"+" or value[16] == c";"


cdef bint is_base64(const uint8_t *value, size_t length) noexcept:
    """Whether a binary value, or several joined by commas, can be decoded: the alphabet, and no
    value whose length leaves one character over."""
    cdef size_t at
    cdef size_t count = 0
    cdef size_t padding = 0
    cdef uint8_t c
    for at in range(length + 1):
        c = value[at] if at < length else c","
        if c == c"," or (c == c" " and count == 0):
            if count % 4 == 1 or padding > 2 or (padding and (count + padding) % 4):
                return False
            count = 0
            padding = 0
        elif c == c"=":
            padding += 1
        elif padding == 0 and (
            (c >= c"A" and c <= c"Z") or (c >= c"a" and c <= c"z") or (c >= c"0" and c <= c"9")
            or c == c"+" or c == c"/"
        ):
            count += 1
        else:
            return False
    return True


cdef bint lists_gzip(const uint8_t *value, size_t length) noexcept:
    """Whether a grpc-accept-encoding names gzip."""
    cdef size_t at = 0
    cdef size_t begin
    while at < length:
        while at < length and (value[at] == c" " or value[at] == c","):
            at += 1
        begin = at
        while at < length and value[at] != c" " and value[at] != c",":
            at += 1
        if at - begin == 4 and memcmp(value + begin, b"gzip", 4) == 0:
            return True
    return False


def parse_timeout(bytes value not None):
    """Nanoseconds, or None if the value is no grpc-timeout."""
    found = timeout_ns(<const uint8_t *>PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value))
    return None if found == BAD_TIMEOUT else found


def read_messages(list pieces, size_t limit):
    """(messages as (compressed, bytes), fault code or 0, bytes left within a message) of DATA cut
    into `pieces`: the reader, as tests and the fuzzer drive it."""
    cdef reader_t reader
    cdef const uint8_t *data
    cdef const uint8_t *message
    cdef size_t left, length
    cdef int got = READ_MORE
    reader.have = 0
    reader.used = 0
    reader.body = NULL
    reader.capacity = 0
    found = []
    try:
        for piece in pieces:
            data = <const uint8_t *>PyBytes_AS_STRING(<bytes?>piece)
            left = PyBytes_GET_SIZE(piece)
            while left:
                got = reader_feed(&reader, &data, &left, limit, &message, &length)
                if got < 0:
                    return found, got, 0
                if got == READ_MESSAGE:
                    body = PyBytes_FromStringAndSize(<const char *>message, length)
                    found.append((reader.prefix[0] == 1, body))
        return found, 0, reader.have + reader.used
    finally:
        reader_clear(&reader)


# --- metadata ------------------------------------------------------------------------------------
def decode_metadata(bytes packed not None):
    """((name, text or bytes), ...) of packed request metadata. A binary header may hold several
    values joined by commas: they come out one by one."""
    cdef const char *data = PyBytes_AS_STRING(packed)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(packed)
    cdef Py_ssize_t at = 0
    cdef uint16_t name_length
    cdef uint32_t value_length
    found = []
    while at < size:
        memcpy(&name_length, data + at, 2)
        memcpy(&value_length, data + at + 2, 4)
        at += 6
        name = packed[at : at + name_length].decode("latin-1")
        at += name_length
        value = packed[at : at + value_length]
        at += value_length
        if name.endswith("-bin"):
            for part in value.split(b","):
                found.append((name, decode_binary(part)))
        else:
            found.append((name, value.decode("latin-1")))
    return tuple(found)


def decode_binary(bytes value not None):
    """Bytes of a base64 value, padded or not."""
    value = value.strip(b" =")
    return binascii.a2b_base64(value + b"==="[: (4 - len(value) % 4) % 4])


def encode_metadata(pairs):
    """[(name, value), ...] as bytes for the wire. Raises BadMetadata for a name or value that gRPC
    reserves or HTTP forbids."""
    encoded = []
    for name, value in pairs:
        raw_name = name.encode("latin-1", "replace") if isinstance(name, str) else b""
        reserved = raw_name.startswith(b"grpc-") and name not in (PUSHBACK, DETAILS)
        if not _is_name(raw_name) or reserved or name in NOT_METADATA:
            raise BadMetadata(
                f"metadata name {name!r:.80}: must be of a-z, 0-9, '-', '_', '.', not begin"
                " with 'grpc-' and not be a header of the transport's own"
            )
        if name.endswith("-bin"):
            if not isinstance(value, bytes):
                raise BadMetadata(f"metadata {name}: {type(value).__name__}; must be bytes")
            raw = binascii.b2a_base64(value, newline=False).rstrip(b"=")
        else:
            raw = _text_value(name, value)
        encoded.append((raw_name, raw))
    return encoded


def _text_value(name, value):
    if not isinstance(value, (str, bytes)):
        raise BadMetadata(f"metadata {name}: {type(value).__name__}; must be text")
    raw = value.encode("latin-1", "replace") if isinstance(value, str) else value
    if any((c < 0x20 and c != 0x09) or c == 0x7F for c in raw):  # HTTP allows tabs
        raise BadMetadata(f"metadata {name}: a control character; only -bin values may have them")
    return raw.strip(b" ")


cdef bint _is_name(bytes name):
    cdef const char *data = PyBytes_AS_STRING(name)
    cdef Py_ssize_t at
    cdef char c
    for at in range(PyBytes_GET_SIZE(name)):
        c = data[at]
        if not (
            (c >= c"a" and c <= c"z") or (c >= c"0" and c <= c"9")
            or c == c"-" or c == c"_" or c == c"."
        ):
            return False
    return PyBytes_GET_SIZE(name) > 0


# --- status --------------------------------------------------------------------------------------
def encode_message(str message not None):
    """grpc-message: UTF-8, with all but printable ASCII, and the percent sign, percent-encoded."""
    cdef bytes raw = message.encode("utf-8", "replace")
    cdef const uint8_t *data = <const uint8_t *>PyBytes_AS_STRING(raw)
    cdef Py_ssize_t at
    cdef Py_ssize_t escaped = 0
    for at in range(PyBytes_GET_SIZE(raw)):
        if data[at] < 0x20 or data[at] > 0x7E or data[at] == c"%":
            escaped += 1
    if escaped == 0:
        return raw
    out = bytearray()
    for c in raw:
        if c < 0x20 or c > 0x7E or c == 0x25:
            out += b"%%%02X" % c
        else:
            out.append(c)
    return bytes(out)


def decode_message(bytes value not None):
    """The text of a grpc-message. What is no valid escape stays as it is."""
    out = bytearray()
    at = 0
    while at < len(value):
        if value[at] == 0x25 and at + 3 <= len(value):
            try:
                out += binascii.unhexlify(value[at + 1 : at + 3])
                at += 3
                continue
            except binascii.Error:  # not an escape: kept as it is, as the protocol asks
                out.append(value[at])
        else:
            out.append(value[at])
        at += 1
    return out.decode("utf-8", "replace")


def status_pairs(int code, str message not None):
    """[(name, value), ...] of a status: grpc-status, and grpc-message unless it is empty."""
    pairs = [(b"grpc-status", str(code).encode())]
    if message:
        pairs.append((b"grpc-message", encode_message(message)))
    return pairs


# --- compression ---------------------------------------------------------------------------------
def compress(bytes message not None):
    """gzip, with a context of its own."""
    deflate = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, GZIP_WBITS)
    return deflate.compress(message) + deflate.flush()


def decompress(bytes message not None, Py_ssize_t limit):
    """The message, at most `limit` bytes: inflating stops one byte above. Raises BadEncoding,
    TooLarge."""
    inflate = zlib.decompressobj(GZIP_WBITS)
    try:
        plain = inflate.decompress(message, limit + 1)
    except zlib.error as error:
        raise BadEncoding(f"{len(message)} bytes that are not gzip") from error
    if len(plain) > limit:
        raise TooLarge(f"more than {limit} bytes when decompressed; at most {limit}")
    if not inflate.eof or inflate.unused_data:
        raise BadEncoding(f"{len(message)} bytes: must be one whole gzip member")
    return plain
