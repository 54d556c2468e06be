"""Where a transport differs from what the suite demands: each difference pinned, with its reason.

`DIFFERENCES`: case -> (transport, what it does instead, why). A case is a test's name without
`test_`. The table is checked in both directions: a difference that no longer occurs fails its case,
and an entry whose case is gone fails tests/conformance/test_differences.py. Where the outcome is a
race inside the library, `instead` is `OneOf` and what is demanded may be among the outcomes; such
an entry only bounds them. Not for faults: a fault is mended.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class OneOf(tuple[object, ...]):
    """Outcomes of a race."""


class Difference(NamedTuple):
    """One pinned difference; `instead` is the outcome in the words of its case."""

    transport: str
    instead: object
    why: str


DIFFERENCES: dict[str, Difference] = {}


def _pin(transport: str, why: str, instead: object, *cases: str) -> None:
    for case in cases:
        assert case not in DIFFERENCES, f"{case} is pinned twice"
        DIFFERENCES[case] = Difference(transport, instead, why)


def _grpcio(why: str, instead: object, *cases: str) -> None:
    _pin("grpcio", why, instead, *cases)


def _native(why: str, instead: object, *cases: str) -> None:
    _pin("native", why, instead, *cases)


def _each(case: str, *parameters: str) -> Iterable[str]:
    return [f"{case}[{parameter}]" for parameter in parameters]


INTERNAL, OK, EMPTY_OK = "trailers-only INTERNAL", "1 message, OK", "trailers-only OK"
REPAIRED = "RST_STREAM INTERNAL_ERROR"
UNARY_KINDS = ("EmptyCall", "UnaryCall", "StreamingOutputCall")

# --- request headers -----------------------------------------------------------------------------
_grpcio(
    "C-core does not look at the content type of a request",
    (OK, "1 finished"),
    *_each("01_content_type_refused", "application/grpcfoo", "application/grpc-web"),
    *_each("01_content_type_refused", "application/json", "text/plain", "absent", "empty"),
)
_grpcio(
    "methods that C-core knows and gRPC does not use reset the stream",
    REPAIRED,
    *_each("02_other_methods", "GET", "PUT"),
)
_grpcio(
    "methods that C-core does not know are errors of its parser, answered with HTTP 200",
    "trailers-only INTERNAL",
    *_each("02_other_methods", "HEAD", "OPTIONS", "post"),
)
_grpcio("C-core insists on te: trailers, as the specification says", REPAIRED,
        "04_te_may_be_missing")  # fmt: skip
_grpcio(
    "a header that C-core cannot parse is answered, and the connection is no good afterwards",
    "trailers-only INTERNAL; then connection dead",
    *_each("04_other_te", "gzip", "trailers, deflate", ""),
)
_grpcio(
    "errors of C-core's header parser are answered with HTTP 200",
    (INTERNAL, "none ran"),
    *_each("05_bad_timeouts", "empty", "no unit", "no digits", "unknown unit", "upper-case u"),
    *_each("05_bad_timeouts", "minus", "plus", "fraction", "two", "hex"),
)
_grpcio(
    "C-core is lenient: it takes a ninth digit, and spaces before the unit",
    (OK, "1 finished"),
    *_each("05_bad_timeouts", "9 digits", "space inside"),
)
_grpcio(
    "C-core rounds timeouts up and runs the handler if the timer has not fired",
    OneOf(
        (words, ran)
        for words in (OK, "trailers-only DEADLINE_EXCEEDED")
        for ran in ("1 finished", "1 cancelled", "none ran")
    ),
    *_each("05_no_time_left", "1n"),
)
_grpcio(
    "errors of C-core's base64 decoder are answered with HTTP 200",
    INTERNAL,
    *_each("06_bad_binary_metadata", "!!!!", "A", "AAAAA", "AA=A", "A==="),
)
_grpcio(
    "C-core does not count the padding of base64",
    OK,
    *_each("06_bad_binary_metadata", "AP8=="),
)
_grpcio(
    "C-core does not split binary metadata on commas: it fails the call",
    INTERNAL,
    *_each("06_binary_metadata", "two in one", "two, with a space"),
)
_grpcio(
    "C-core takes such values and refuses to send them",
    INTERNAL,
    *_each("06_text_that_is_not_ascii", "636166e9", "e298ba", "610962", "80ff"),
)
_grpcio(
    "C-core hides only the reserved names that it knows",
    ["grpc", "grpc-custom", "grpc-previous-rpc-attempts"],
    "07_reserved_names_are_not_metadata",
)
_grpcio(
    "C-core lets handlers send reserved names",
    ["grpc-accept-encoding", "grpc-custom", "grpc-custom", "grpc-encoding", "grpc-status"],
    "07_reserved_names_do_not_go_out",
)
_grpcio(
    "C-core's limit is soft: above it calls are refused at random, always only at twice as much",
    OneOf((OK, "trailers-only RESOURCE_EXHAUSTED")),
    "08_header_list[one more]",
)
_grpcio(
    "C-core resets streams without a mandatory pseudo-header with another code",
    REPAIRED,
    *_each("09_malformed_headers", "no authority, no host", "no path", "no method", "no scheme"),
)
_grpcio("C-core looks an empty path up", "trailers-only UNIMPLEMENTED",
        "09_malformed_headers[empty path]")  # fmt: skip
_grpcio(
    "errors of C-core's header parser are answered",
    INTERNAL,
    *_each("09_malformed_headers", "two authorities", "unknown pseudo-header"),
    *_each("09_malformed_headers", "upper-case name", "name with a space"),
)
_grpcio(
    "C-core does not look for what HTTP/2 forbids in a request",
    OK,
    *_each("09_malformed_headers", "two paths", "pseudo-header last", "status in a request"),
    *_each("09_malformed_headers", "connection", "transfer-encoding", "upgrade"),
    *_each("09_malformed_headers", "value with a newline"),
    *_each("09_content_length_mismatch", "3", "500", "x"),
)
_grpcio("C-core closes without GOAWAY", "connection closed (eof)",
        "09_header_blocks_that_do_not_decode")  # fmt: skip

# --- messages ------------------------------------------------------------------------------------
_grpcio(
    "C-core does not know padding",
    OneOf((("RST_STREAM PROTOCOL_ERROR", [0]), ("RST_STREAM PROTOCOL_ERROR", []))),
    *_each("10_splits", "padding", "only padding"),
)
for _flag in ("2", "2 and gzip", "128", "255"):
    _grpcio(
        "C-core looks at the lowest bit of the flag alone, and now and then answers nothing",
        OneOf((OK, "silence")),
        *_each("11_bad_flags", *(f"{_flag}-{name}" for name in ("EmptyCall", "UnaryCall"))),
        f"11_bad_flags[{_flag}-StreamingInputCall]",
    )
    _grpcio(
        "C-core looks at the lowest bit of the flag alone, and now and then answers nothing",
        OneOf((EMPTY_OK, "silence")),
        f"11_bad_flags[{_flag}-FullDuplexCall]",
    )
_grpcio(
    "C-core fails to parse an encoding that it does not know, and so fails to decompress",
    (INTERNAL, [""]),
    *_each("11_unknown_encodings", "snappy", "deflate", "br", "GZIP", ""),
)
_grpcio("C-core does not decompress an empty message", OK, "11_corrupt_gzip[nothing]")
for _raw in ("00", "00000000", "0000000001", "0000000005666f7572"):
    _grpcio(
        "grpc.aio never answers a call whose one request does not come",
        "silence",
        *_each("13_cut_short", *(f"{_raw}-{name}" for name in UNARY_KINDS)),
    )
    _grpcio(
        "a cut message is the end of the requests",
        OK,
        f"13_cut_short[{_raw}-StreamingInputCall]",
    )
    _grpcio(
        "a cut message is the end of the requests",
        EMPTY_OK,
        f"13_cut_short[{_raw}-FullDuplexCall]",
    )
_grpcio("a cut message is the end of the requests", OK, "13_cut_short_after_a_whole_message")
_grpcio(
    "grpc.aio never answers a call whose one request does not come",
    "silence",
    *_each("13_not_one_request", *(f"0-{name}" for name in UNARY_KINDS)),
)
_grpcio(
    "grpc.aio never answers a call whose one request does not come",
    ("silence", "none ran"),
    *_each("13_headers_alone_end_the_request", *UNARY_KINDS),
)
_grpcio(
    "grpc.aio does not look for a second request",
    OK,
    *_each("13_not_one_request", "2-EmptyCall", "2-UnaryCall", "3-EmptyCall", "3-UnaryCall"),
)
_grpcio(
    "grpc.aio does not look for a second request",
    EMPTY_OK,
    *_each("13_not_one_request", "2-StreamingOutputCall", "3-StreamingOutputCall"),
)
_grpcio(
    "grpc.aio does not look for a second request",
    (OK, "1 finished"),
    *_each("13_second_request_in_a_later_frame", "EmptyCall", "UnaryCall"),
)
_grpcio(
    "grpc.aio does not look for a second request",
    (EMPTY_OK, "1 finished"),
    "13_second_request_in_a_later_frame[StreamingOutputCall]",
)

_grpcio(
    "C-core compresses whether or not the caller can decompress",
    (0, [1], [1_000], None),
    *_each("15_compressed_only_if_accepted", "None-0", "-0", "identity-0", "deflate,br-0"),
    *_each("15_compressed_only_if_accepted", "xgzip,gzipx-0"),
)

# --- endings -------------------------------------------------------------------------------------
_grpcio(
    "C-core waits for the rest of a message that it has no use for",
    OneOf((([], True), (["HEADERS END_STREAM"], True))),
    "18_early_end[bad flag]",
)
_grpcio(
    "grpc.aio may end the requests of a cancelled stream before it cancels the handler",
    OneOf(
        (["HEADERS END_STREAM", "RSTSTREAM NO_ERROR"], "trailers-only DEADLINE_EXCEEDED", ended)
        for ended in ("1 finished", "1 cancelled")
    ),
    "19_deadline_before_the_request_ends",
)
_grpcio(
    "grpc.aio may end the requests of a cancelled stream before it cancels the handler",
    OneOf(("1 message, DEADLINE_EXCEEDED", ended) for ended in ("1 finished", "1 cancelled")),
    "19_deadline_after_replies",
)
_grpcio(
    "C-core drops what is queued and sends trailers; a handler that sends gets an error of its own",
    OneOf(("0 messages, DEADLINE_EXCEEDED", ended) for ended in ("1 failed", "1 cancelled")),
    "19_deadline_with_a_queue[replies under way]",
)
_grpcio(
    "C-core drops what is queued and sends trailers",
    ("0 messages, DEADLINE_EXCEEDED", "1 finished"),
    "19_deadline_with_a_queue[reply complete]",
)
for _how in ("RST_STREAM", "half-close of TCP", "close of TCP", "reset of TCP"):
    _grpcio(
        "grpc.aio may end the requests of a cancelled stream before it cancels the handler",
        OneOf(("1 finished", "1 cancelled")),
        f"19_hang_up[client stream, after headers-{_how}]",
        f"19_hang_up[client stream, inside a message-{_how}]",
        f"19_hang_up[both streams, between messages-{_how}]",
    )
    _grpcio(
        "a handler of grpc.aio that sends to a caller who has gone gets an error of its own",
        OneOf(("1 failed", "1 cancelled")),
        f"19_hang_up[server stream, replies under way-{_how}]",
    )
_grpcio(
    "C-core says ENHANCE_YOUR_CALM where the stream could have been refused",
    ({11}, {0}),
    "20_too_many_streams_before_settings_are_acknowledged",
)

_grpcio(
    "C-core refuses before any code of the project knows of the call",
    ("trailers-only RESOURCE_EXHAUSTED", False, {OK}),
    "20_a_full_worker_refuses_with_a_hint",
)

# --- connections ---------------------------------------------------------------------------------
_DEBUG = b"Server shutdown"
_grpcio(
    "grpc.aio cancels calls that come between the two GOAWAYs; C-core names its reason",
    OneOf(
        ((2**31 - 1, 0, _DEBUG), f"trailers-only {status}", (3, 0, _DEBUG), OK, "eof")
        for status in ("CANCELLED", "UNAVAILABLE")
    ),
    "21_drain_in_two_steps",
)
_grpcio(
    "C-core waits 20 s for the answer, whatever its settings",
    ("silence", OK),
    "21_drain_does_not_wait_for_ever_for_an_answer",
)
_grpcio(
    "C-core says UNAVAILABLE for what it ends itself",
    ("trailers-only UNAVAILABLE", "eof", "1 cancelled"),
    "21_the_grace_has_an_end",
    "21_age_with_an_end_of_grace",
)
_grpcio(
    "C-core gives idleness a code and words of its own",
    ((2, b"connection idle"), "eof", OK, []),
    "21_idleness",
)
_grpcio(
    "C-core has a timeout of its own for its PINGs, a minute that no setting here shortens",
    (1, "silence", "1 running"),
    "22_no_answer_is_the_end",
)
_grpcio(
    "C-core lets windows overflow",
    ("silence", "1 running"),
    *_each("23_windows_that_overflow", "stream", "connection"),
)
_grpcio(
    "C-core has the code of another error, and the handler does not hear of it",
    ("RST_STREAM PROTOCOL_ERROR", "1 running"),
    "23_more_than_the_window",
)
_grpcio(
    "C-core closes without GOAWAY",
    ("connection closed (eof)", "1 cancelled"),
    *_each(
        "23_frames_that_end_the_connection",
        "WINDOW_UPDATE of 0",
        "WINDOW_UPDATE of 3 bytes",
        "SETTINGS of 5 bytes",
        "SETTINGS on a stream",
        "PING of 7 bytes",
        "CONTINUATION alone",
    ),
)
_grpcio(
    "C-core passes over what HTTP/2 forbids",
    ("silence", "1 running"),
    *_each(
        "23_frames_that_end_the_connection",
        "DATA on stream 0",
        "DATA too long",
        "HEADERS on an even stream",
        "RST_STREAM of an idle stream",
        "PUSH_PROMISE",
    ),
)

# --- the native transport ------------------------------------------------------------------------
