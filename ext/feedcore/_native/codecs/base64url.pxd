"""base64url without padding (RFC 4648, 5), to and from memory. Inline, for other modules.

Strict: what decodes is the one text of its bytes. Not for base64 with padding.
"""
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t

cdef extern from *:
    """
    #ifndef FEEDCORE_BASE64URL
    #define FEEDCORE_BASE64URL
    #include <stdint.h>
    #include <stddef.h>
    static const uint8_t fc_base64url[65] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    /* the value of each character; 64 for what is none */
    #define FC_X8 64, 64, 64, 64, 64, 64, 64, 64
    #define FC_X32 FC_X8, FC_X8, FC_X8, FC_X8
    static const uint8_t fc_base64url_value[256] = {
        FC_X32, FC_X8,
        64, 64, 64, 64, 64, 62, 64, 64, 52, 53, 54, 55, 56, 57, 58, 59,
        60, 61, 64, 64, 64, 64, 64, 64, 64, 0, 1, 2, 3, 4, 5, 6,
        7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22,
        23, 24, 25, 64, 64, 64, 64, 63, 64, 26, 27, 28, 29, 30, 31, 32,
        33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47, 48,
        49, 50, 51, 64, 64, 64, 64, 64, FC_X32, FC_X32, FC_X32, FC_X32
    };
    #undef FC_X8
    #undef FC_X32
    #endif
    """
    const uint8_t* TEXT_OF "fc_base64url"
    const uint8_t* VALUE_OF "fc_base64url_value"

cdef inline size_t base64url_size(size_t size) noexcept nogil:
    """Characters that `size` bytes take."""
    return (size * 4 + 2) // 3

cdef inline uint8_t* base64url_encode(uint8_t* to, const uint8_t* data, size_t size) noexcept nogil:
    """Writes base64url_size(size) characters; answers their end."""
    cdef uint32_t bits
    while size >= 3:
        bits = <uint32_t>data[0] << 16 | <uint32_t>data[1] << 8 | data[2]
        to[0] = TEXT_OF[bits >> 18]
        to[1] = TEXT_OF[bits >> 12 & 63]
        to[2] = TEXT_OF[bits >> 6 & 63]
        to[3] = TEXT_OF[bits & 63]
        to += 4
        data += 3
        size -= 3
    if size:
        bits = <uint32_t>data[0] << 16 | (<uint32_t>data[1] << 8 if size == 2 else 0)
        to[0] = TEXT_OF[bits >> 18]
        to[1] = TEXT_OF[bits >> 12 & 63]
        to[2] = TEXT_OF[bits >> 6 & 63]
        to += 1 + size
    return to

cdef inline int64_t base64url_decode(uint8_t* to, const uint8_t* text, size_t size) noexcept nogil:
    """Writes at most 3 * size / 4 bytes; answers how many, or -1 if the text is not the one text of
    any bytes."""
    cdef uint8_t* start = to
    cdef size_t rest = size & 3
    cdef uint8_t a, b, c, d, wrong = 0
    size -= rest
    while size:
        a = VALUE_OF[text[0]]
        b = VALUE_OF[text[1]]
        c = VALUE_OF[text[2]]
        d = VALUE_OF[text[3]]
        wrong |= a | b | c | d
        to[0] = <uint8_t>(a << 2 | b >> 4)
        to[1] = <uint8_t>(b << 4 | c >> 2)
        to[2] = <uint8_t>(c << 6 | d)
        text += 4
        to += 3
        size -= 4
    if rest == 1:
        return -1
    if rest:
        a = VALUE_OF[text[0]]
        b = VALUE_OF[text[1]]
        c = VALUE_OF[text[2]] if rest == 3 else 0
        wrong |= a | b | c
        to[0] = <uint8_t>(a << 2 | b >> 4)
        to += 1
        if rest == 3:
            to[0] = <uint8_t>(b << 4 | c >> 2)
            to += 1
            if c & 3:
                return -1
        elif b & 15:
            return -1
    return -1 if wrong & 64 else to - start
