"""Cases of request headers: what is accepted, and how the rest is refused."""

from __future__ import annotations

import pytest

from feedcore_server import limits
from feedcore_server.context import CallContext
from tests.conformance.harness import EMPTY, UNARY, Agree, Harness, alive, ended
from tests.support.rawclient import (
    Closed,
    Header,
    RawClient,
    Silence,
    grpc_message,
    header_list_bytes,
    raw_frame,
    request_headers,
)
from tests.support.testservice import ECHO_INITIAL, ECHO_TRAILING

OK = "1 message, OK"
UNIMPLEMENTED = "trailers-only UNIMPLEMENTED"
BAD_REQUEST = "HTTP 400 trailers-only INTERNAL"
MALFORMED = "RST_STREAM PROTOCOL_ERROR"
DATA, END_STREAM = 0, 1

ACCEPTED_TYPES = [
    "application/grpc",
    "application/grpc+proto",
    "application/grpc;charset=utf-8",
    "application/grpc+proto;x=y",
]
REFUSED_TYPES = ["application/grpcfoo", "application/grpc-web", "application/json", "text/plain"]
BAD_TIMEOUTS = {
    "empty": "",
    "no unit": "10",
    "no digits": "S",
    "9 digits": "123456789S",
    "unknown unit": "1x",
    "upper-case u": "1U",
    "minus": "-1S",
    "plus": "+1S",
    "fraction": "1.5S",
    "space inside": "1 S",
    "two": "1S1S",
    "hex": "0x1S",
}
# value, and the seconds that the handler may see of it
TIMEOUTS = {
    "hours": ("2H", 7_200.0),
    "minutes": ("30M", 1_800.0),
    "seconds": ("1000S", 1_000.0),
    "milliseconds": ("90000m", 90.0),
    "microseconds": ("60000000u", 60.0),
    "8 digits": ("00000050S", 50.0),
    "nanoseconds": ("99999999n", 0.099_999_999),
}


async def send_call(client: RawClient, headers: list[Header], message: bytes = b"") -> int:
    """A whole unary call with these headers."""
    stream = await client.start(headers)
    await client.send(raw_frame(DATA, END_STREAM, stream, grpc_message(message)))
    return stream


class RequestCases(Harness):
    """Behaviours 1 to 9."""

    async def ask(self, headers: list[Header], **bounds: float) -> str:
        """The outcome of one call with these headers."""
        async with self.serving(**bounds) as served, served.raw() as client:
            return await self.outcome(client, await send_call(client, headers))

    @pytest.mark.parametrize("value", ACCEPTED_TYPES)
    async def test_01_content_type_accepted(self, agree: Agree, value: str) -> None:
        agree(await self.ask(request_headers(EMPTY, content_type=value)), OK)

    @pytest.mark.parametrize("value", [*REFUSED_TYPES, "absent", "empty"])
    async def test_01_content_type_refused(self, agree: Agree, value: str) -> None:
        without = ["content-type"] if value == "absent" else []
        sent = "" if value == "empty" else value
        headers = request_headers(EMPTY, content_type=sent, without=without)
        async with self.serving() as served, served.raw() as client:
            stream = await send_call(client, headers)
            words = await self.outcome(client, stream)
            state = client.streams[stream]
            if state.http_status == 415 and state.status:
                words = "HTTP 415 and a grpc-status"
            agree((words, served.recorder.ends), ("HTTP 415 and a grpc-status", "none ran"))

    @pytest.mark.parametrize("method", ["GET", "PUT", "HEAD", "OPTIONS", "post"])
    async def test_02_other_methods(self, agree: Agree, method: str) -> None:
        words = await self.ask(request_headers(EMPTY, method=method))
        agree(" ".join(words.split()[:2]), "HTTP 405")

    @pytest.mark.parametrize(
        "path",
        [
            "/grpc.testing.Nobody/EmptyCall",
            "/grpc.testing.TestService/UnimplementedCall",
            "/grpc.testing.TestService/emptycall",
            "/Grpc.testing.TestService/EmptyCall",
            "/grpc.testing.TestService/EmptyCall/",
            "/grpc.testing.TestService/EmptyCall?a=b",
            "//grpc.testing.TestService/EmptyCall",
            "/grpc.testing.TestService/",
            "/grpc.testing.TestService",
            "/",
            "//",
            "/" + "a" * 4_000 + "/b",
        ],
        ids=lambda path: path if len(path) < 100 else "long",
    )
    async def test_03_unknown_paths(self, agree: Agree, path: str) -> None:
        agree(await self.ask(request_headers(path)), UNIMPLEMENTED)

    @pytest.mark.parametrize("end", ["at once", "never"])
    async def test_03_unknown_path_before_the_request_ends(self, agree: Agree, end: str) -> None:
        async with self.serving() as served, served.raw() as client:
            stream = await client.start(request_headers("/no/such"), end=end == "at once")
            agree(await self.outcome(client, stream), UNIMPLEMENTED)

    async def test_04_te_may_be_missing(self, agree: Agree) -> None:
        agree(await self.ask(request_headers(EMPTY, without=["te"])), OK)

    @pytest.mark.parametrize("value", ["gzip", "trailers, deflate", ""])
    async def test_04_other_te(self, agree: Agree, value: str) -> None:
        agree(await self.ask(request_headers(EMPTY, te=value)), MALFORMED)

    @pytest.mark.parametrize("name", BAD_TIMEOUTS)
    async def test_05_bad_timeouts(self, agree: Agree, name: str) -> None:
        async with self.serving() as served, served.raw() as client:
            headers = request_headers(EMPTY, ("grpc-timeout", BAD_TIMEOUTS[name]))
            words = await self.outcome(client, await send_call(client, headers))
            agree((words, served.recorder.ends), (BAD_REQUEST, "none ran"))

    @pytest.mark.parametrize("name", TIMEOUTS)
    async def test_05_timeouts(self, agree: Agree, name: str) -> None:
        value, seconds = TIMEOUTS[name]
        async with self.serving() as served, served.raw() as client:
            seen: list[float | None] = []
            served.recorder.before = lambda call: seen.append(call.remaining_s(self.now_s()))
            headers = request_headers(UNARY, ("grpc-timeout", value))
            words = await self.outcome(client, await send_call(client, headers))
            fits = [left is not None and 0 < left <= seconds * 1.01 for left in seen[:1]]
            agree((words, fits), (OK, [True]))

    async def test_05_no_timeout_is_no_deadline(self, agree: Agree) -> None:
        async with self.serving() as served, served.raw() as client:
            words = await self.outcome(client, await send_call(client, request_headers(UNARY)))
            agree((words, served.recorder.calls[0].deadline_s), (OK, None))

    @pytest.mark.parametrize("value", ["99999999H", "99999999M"])
    async def test_05_huge_timeouts(self, agree: Agree, value: str) -> None:
        agree(await self.ask(request_headers(UNARY, ("grpc-timeout", value))), OK)

    @pytest.mark.parametrize("value", ["0S", "0n", "00000000H", "1n"])
    async def test_05_no_time_left(self, agree: Agree, value: str) -> None:
        async with self.serving() as served, served.raw() as client:
            stream = await client.start(request_headers(UNARY, ("grpc-timeout", value)))
            await client.ping()  # the message comes when it is too late
            await client.send(raw_frame(DATA, END_STREAM, stream, grpc_message(b"")))
            words = await self.outcome(client, stream)
            demanded = ("trailers-only DEADLINE_EXCEEDED", "none ran")
            agree((words, served.recorder.ends), demanded)

    @pytest.mark.parametrize(
        ("sent", "seen"),
        [
            (b"AP8=", [b"\x00\xff"]),
            (b"AP8", [b"\x00\xff"]),
            (b"AA==,AP8", [b"\x00", b"\x00\xff"]),
            (b"AA, AP8=", [b"\x00", b"\x00\xff"]),
            (b"", [b""]),
            (b"+/+/", [b"\xfb\xff\xbf"]),
        ],
        ids=["padded", "unpadded", "two in one", "two, with a space", "empty", "all of base64"],
    )
    async def test_06_binary_metadata(self, agree: Agree, sent: bytes, seen: list[bytes]) -> None:
        demanded = [("x-bin", value) for value in seen]
        agree(await self.metadata_seen(("x-bin", sent)), demanded)

    @pytest.mark.parametrize("sent", ["!!!!", "A", "AAAAA", "AA=A", "A===", "AP8=="])
    async def test_06_bad_binary_metadata(self, agree: Agree, sent: str) -> None:
        agree(await self.ask(request_headers(EMPTY, ("x-bin", sent))), BAD_REQUEST)

    async def test_06_repeated_keys_keep_their_order(self, agree: Agree) -> None:
        sent = [("k", "1"), ("b-bin", b"AA"), ("k", "2"), ("a", "x"), ("b-bin", b"AQ"), ("k", "1")]
        expected = [
            ("k", "1"),
            ("b-bin", b"\0"),
            ("k", "2"),
            ("a", "x"),
            ("b-bin", b"\1"),
            ("k", "1"),
        ]
        agree(await self.metadata_seen(*sent), expected)

    async def test_06_commas_stay_in_text(self, agree: Agree) -> None:
        agree(await self.metadata_seen(("k", "a,b, c")), [("k", "a,b, c")])

    async def metadata_seen(self, *extra: Header) -> object:
        """What the handler sees of these headers, or the outcome if that is not OK."""
        async with self.serving() as served, served.raw() as client:
            words = await self.outcome(
                client, await send_call(client, request_headers(UNARY, *extra))
            )
            if words != OK:
                return words
            keys = {name for name, _ in extra}
            return [pair for pair in served.recorder.calls[0].all_metadata if pair[0] in keys]

    async def test_06_binary_metadata_goes_out_unpadded(self, agree: Agree) -> None:
        async with self.serving() as served, served.raw() as client:
            headers = request_headers(UNARY, (ECHO_TRAILING, "q6ur+w=="))
            state = await client.finished(await send_call(client, headers))
            agree(dict(state.closing)[ECHO_TRAILING], "q6ur+w")

    @pytest.mark.parametrize(
        "value", [b"caf\xe9", "☺".encode(), b"a\tb", b"\x80\xff"], ids=lambda value: value.hex()
    )
    async def test_06_text_that_is_not_ascii(self, agree: Agree, value: bytes) -> None:
        async with self.serving() as served, served.raw() as client:
            stream = await send_call(client, request_headers(UNARY, (ECHO_INITIAL, value)))
            agree(await self.outcome(client, stream), OK)

    async def test_07_reserved_names_are_not_metadata(self, agree: Agree) -> None:
        extra = [
            ("grpc-custom", "x"),
            ("grpc-accept-encoding", "gzip"),
            ("grpc-timeout", "100S"),
            ("grpc-tags-bin", "AA"),
            ("grpc-trace-bin", "AA"),
            ("grpc-previous-rpc-attempts", "1"),
            ("grpc", "mine"),
        ]
        async with self.serving() as served, served.raw() as client:
            await client.finished(await send_call(client, request_headers(UNARY, *extra)))
            keys = [key for key, _ in served.recorder.calls[0].all_metadata]
            agree(sorted(key for key in keys if key.startswith((":", "grpc"))), ["grpc"])

    async def test_07_reserved_names_do_not_go_out(self, agree: Agree) -> None:
        def tamper(call: CallContext) -> None:
            call.initial += [("grpc-encoding", "x"), ("grpc-custom", "x")]
            call.trailers += [("grpc-status", "9"), ("grpc-custom", "x")]

        async with self.serving() as served, served.raw() as client:
            served.recorder.before = tamper
            state = await client.finished(await send_call(client, request_headers(UNARY)))
            # Whether the handler's mistake fails the call or is passed over is the transport's.
            names = [name for name, _ in (state.headers or []) + (state.trailers or [])]
            ours = ("grpc-message", "grpc-status-details-bin")
            names = [name for name in names if name.startswith("grpc-") and name not in ours]
            agree(sorted(names), ["grpc-status"])

    @pytest.mark.parametrize("over", [0, 1], ids=["the limit", "one more"])
    async def test_08_header_list(self, agree: Agree, over: int) -> None:
        headers = request_headers(EMPTY, ("x", ""))
        room = limits.METADATA_BYTES_MAX - header_list_bytes(headers)
        headers[-1] = ("x", "v" * (room + over))
        agree(await self.ask(headers), "trailers-only RESOURCE_EXHAUSTED" if over else OK)

    @pytest.mark.parametrize("count", [600, 12_000])
    async def test_08_many_small_headers(self, agree: Agree, count: int) -> None:
        # One octet each on the wire: the first is kept in the table of compression, the rest
        # refer to it.
        headers = request_headers(EMPTY) + [("x", "y")] * count
        agree(await self.ask(headers), "trailers-only RESOURCE_EXHAUSTED")

    async def test_08_header_bomb(self, agree: Agree) -> None:
        headers = request_headers(EMPTY) + [("x", "y" * 3_900)] * 4_000
        agree(await self.ask(headers), "trailers-only RESOURCE_EXHAUSTED")

    async def test_08_headers_in_many_frames(self, agree: Agree) -> None:
        headers = request_headers(EMPTY, ("x", "y" * 8_000))
        async with self.serving() as served, served.raw() as client:
            stream = client.open()
            frames = client.header_frames(stream, headers, each=2_000)
            assert len(frames) > 3
            await client.send(*frames)
            await client.send(raw_frame(DATA, END_STREAM, stream, grpc_message(b"")))
            agree(await self.outcome(client, stream), OK)

    @pytest.mark.parametrize("case", ["host alone", "authority alone", "both"])
    async def test_09_authority(self, agree: Agree, case: str) -> None:
        host = [] if case == "authority alone" else [("host", "test")]
        without = [":authority"] if case == "host alone" else []
        agree(await self.ask(request_headers(EMPTY, *host, without=without)), OK)

    @pytest.mark.parametrize(
        "case",
        [
            "no authority, no host",
            "no path",
            "no method",
            "no scheme",
            "empty path",
            "two authorities",
            "two paths",
            "pseudo-header last",
            "unknown pseudo-header",
            "status in a request",
            "connection",
            "transfer-encoding",
            "upgrade",
            "upper-case name",
            "name with a space",
            "value with a newline",
        ],
    )
    async def test_09_malformed_headers(self, agree: Agree, case: str) -> None:
        agree(await self.ask(MALFORMED_HEADERS[case]), MALFORMED)

    @pytest.mark.parametrize("claimed", ["3", "500", "x"])
    async def test_09_content_length_mismatch(self, agree: Agree, claimed: str) -> None:
        agree(await self.ask(request_headers(EMPTY, ("content-length", claimed))), MALFORMED)

    async def test_09_content_length_match(self, agree: Agree) -> None:
        agree(await self.ask(request_headers(EMPTY, ("content-length", "5"))), OK)

    async def test_09_header_blocks_that_do_not_decode(self, agree: Agree) -> None:
        async with self.serving() as served, served.raw() as client:
            await client.send(raw_frame(1, 5, client.open(), b"\xff\xff\xff\xff\xff\xff"))
            try:
                await client.goaway()
                await client.hung_up()
            except (Closed, Silence):
                assert not await alive(client)
            agree(ended(client), "GOAWAY COMPRESSION_ERROR")

    @staticmethod
    def now_s() -> float:
        """The clock of deadlines."""
        from feedcore.clock import SystemClock

        return SystemClock().monotonic()


def _inserted(header: Header, at: int) -> list[Header]:
    headers = request_headers(EMPTY)
    headers.insert(at, header)
    return headers


MALFORMED_HEADERS: dict[str, list[Header]] = {
    "no authority, no host": request_headers(EMPTY, without=[":authority"]),
    "no path": request_headers(EMPTY, without=[":path"]),
    "no method": request_headers(EMPTY, without=[":method"]),
    "no scheme": request_headers(EMPTY, without=[":scheme"]),
    "empty path": request_headers(""),
    "two authorities": _inserted((":authority", "other"), 4),
    "two paths": _inserted((":path", EMPTY), 4),
    "pseudo-header last": [*request_headers(EMPTY, without=[":path"]), (":path", EMPTY)],
    "unknown pseudo-header": _inserted((":protocol", "x"), 4),
    "status in a request": _inserted((":status", "200"), 4),
    "connection": request_headers(EMPTY, ("connection", "keep-alive")),
    "transfer-encoding": request_headers(EMPTY, ("transfer-encoding", "chunked")),
    "upgrade": request_headers(EMPTY, ("upgrade", "h2c")),
    "upper-case name": request_headers(EMPTY, ("X-Upper", "1")),
    "name with a space": request_headers(EMPTY, ("x y", "1")),
    "value with a newline": request_headers(EMPTY, ("x", "a\nb")),
}
