"""Cases of messages: how they may be cut, framed, compressed and counted."""

from __future__ import annotations

import gzip
import itertools
import random
import zlib

import pytest
from hyperframe.frame import DataFrame

from feedcore_server import limits
from tests.conformance.harness import (
    DUPLEX,
    EMPTY,
    INPUT,
    OUTPUT,
    UNARY,
    Agree,
    Harness,
    method_name,
)
from tests.support.rawclient import Header, RawClient, grpc_message, raw_frame, request_headers
from tests.support.testservice import pb

OK = "1 message, OK"
DATA, END_STREAM, PADDED = 0, 1, 8
GZIP = ("grpc-encoding", "gzip")
LIMIT = limits.REQUEST_BYTES_MAX
SEED = 20_240_601

Part = tuple[bytes, int]  # payload of a DATA frame, and its flags


def body(size: int) -> bytes:
    """A SimpleRequest, a StreamingInputCallRequest or a StreamingOutputCallRequest that encodes to
    exactly so many bytes."""
    for payload in range(max(0, size - 16), size):
        # `payload` is field 3 of one message and 1 of the other: field 3 is ignored by the latter.
        encoded = pb.SimpleRequest(payload=pb.Payload(body=bytes(payload))).SerializeToString()
        if len(encoded) == size:
            return bytes(encoded)
    raise AssertionError(f"no message has {size} bytes")


def input_message(size: int) -> bytes:
    """A request of StreamingInputCall that counts for so many bytes."""
    request = pb.StreamingInputCallRequest(payload=pb.Payload(body=b"\x01" * size))
    encoded: bytes = request.SerializeToString()
    return encoded


async def send_parts(client: RawClient, path: str, parts: list[Part], *extra: Header) -> int:
    """A call whose DATA frames are these."""
    stream = await client.start(request_headers(path, *extra))
    await client.send(*(raw_frame(DATA, flags, stream, payload) for payload, flags in parts))
    return stream


def split(raw: bytes, *at: int) -> list[Part]:
    """DATA frames cut at these offsets; the last one ends the stream."""
    cuts = [0, *at, len(raw)]
    frames = [(raw[a:b], 0) for a, b in itertools.pairwise(cuts)]
    return [*frames[:-1], (frames[-1][0], END_STREAM)]


WHOLE = grpc_message(input_message(7)) + grpc_message(b"") + grpc_message(input_message(5))
SPLITS: dict[str, list[Part]] = {
    "one frame": split(WHOLE),
    "one-byte frames": split(WHOLE, *range(1, len(WHOLE))),
    "inside a prefix": split(WHOLE, 1, 3),
    "after a prefix": split(WHOLE, 5),
    "before the last byte": split(WHOLE, len(WHOLE) - 1),
    "one frame a message": split(WHOLE, 16, 21),
    "the end in a frame of its own": [(WHOLE, 0), (b"", END_STREAM)],
    "empty frames between": [
        (b"", 0),
        (WHOLE[:3], 0),
        (b"", 0),
        (b"", 0),
        (WHOLE[3:], 0),
        (b"", END_STREAM),
    ],
    "padding": [
        (b"\x03" + WHOLE[:9] + bytes(3), PADDED),
        (b"\xff" + WHOLE[9:] + bytes(255), PADDED | END_STREAM),
    ],
    "only padding": [
        (b"\x02" + bytes(2), PADDED),
        (b"\x00" + WHOLE, PADDED),
        (b"\x01" + bytes(1), PADDED | END_STREAM),
    ],
}
PACKED = gzip.compress(b"")
BAD_FLAGS: dict[str, tuple[int, bytes, list[Header]]] = {
    "1 and no encoding": (1, b"", []),
    "1 and identity": (1, b"", [("grpc-encoding", "identity")]),
    "1, gzip data, no encoding": (1, PACKED, []),
    "2": (2, b"", []),
    "2 and gzip": (2, PACKED, [GZIP]),
    "128": (128, b"", []),
    "255": (255, b"", []),
}
CORRUPT: dict[str, bytes] = {
    "not gzip": b"what is this",
    "nothing": b"",
    "cut": gzip.compress(body(100))[:-9],
    "no check sum": gzip.compress(body(100))[:-8],
    "wrong check sum": gzip.compress(body(100))[:-8] + bytes(8),
    "zlib": zlib.compress(body(100)),
    "junk after the end": gzip.compress(body(100)) + b"junk",
}


class MessageCases(Harness):
    """Behaviours 10 to 15."""

    async def ask(self, path: str, parts: list[Part], *extra: Header) -> str:
        """The outcome of one call with these DATA frames."""
        async with self.serving() as served, served.raw() as client:
            return await self.outcome(client, await send_parts(client, path, parts, *extra))

    @pytest.mark.parametrize("name", SPLITS)
    async def test_10_splits(self, agree: Agree, name: str) -> None:
        async with self.serving() as served, served.raw() as client:
            stream = await send_parts(client, INPUT, SPLITS[name])
            words = await self.outcome(client, stream)
            totals = [
                pb.StreamingInputCallResponse.FromString(raw).aggregated_payload_size
                for _, raw in client.streams[stream].messages
            ]
            agree((words, totals), (OK, [12]))

    async def test_10_every_byte_in_a_packet_of_its_own(self, agree: Agree) -> None:
        async with self.serving() as served, served.raw() as client:
            stream = client.open()
            frames = client.header_frames(stream, request_headers(INPUT))
            frames.append(DataFrame(stream, WHOLE, flags=["END_STREAM"]))
            await client.send(*frames, each=1)
            agree(await self.outcome(client, stream), OK)

    async def test_10_zero_length_messages(self, agree: Agree) -> None:
        parts = split(grpc_message(b"") * 500)
        agree(await self.ask(INPUT, parts), OK)

    async def test_10_random_splits(self, agree: Agree) -> None:
        draw, wrong = random.Random(SEED), []
        async with self.serving() as served, served.raw() as client:
            for turn in range(60):
                sizes = [draw.choice([0, 1, 4, 100, 3_000]) for _ in range(draw.randrange(1, 6))]
                whole = b"".join(grpc_message(input_message(size)) for size in sizes)
                cuts = sorted(draw.randrange(len(whole) + 1) for _ in range(draw.randrange(12)))
                stream = await send_parts(client, INPUT, split(whole, *cuts))
                state = await client.finished(stream)
                reply = pb.StreamingInputCallResponse.FromString(state.messages[0][1])
                if (state.status, reply.aggregated_payload_size) != (0, sum(sizes)):
                    wrong.append((SEED, turn, sizes, cuts, state.frames))
        agree(wrong, [])

    @pytest.mark.parametrize("path", [EMPTY, UNARY, INPUT, DUPLEX], ids=method_name)
    @pytest.mark.parametrize("name", BAD_FLAGS)
    async def test_11_bad_flags(self, agree: Agree, name: str, path: str) -> None:
        flag, payload, extra = BAD_FLAGS[name]
        parts = [(grpc_message(payload, flag), END_STREAM)]
        agree(await self.ask(path, parts, *extra), "trailers-only INTERNAL")

    @pytest.mark.parametrize("encoding", ["snappy", "deflate", "br", "GZIP", ""])
    async def test_11_unknown_encodings(self, agree: Agree, encoding: str) -> None:
        async with self.serving() as served, served.raw() as client:
            parts = [(grpc_message(b"?", 1), END_STREAM)]
            stream = await send_parts(client, UNARY, parts, ("grpc-encoding", encoding))
            words = await self.outcome(client, stream)
            accepted = client.streams[stream].header("grpc-accept-encoding") or ""
            names = sorted(name.strip() for name in accepted.split(","))
            agree((words, names), ("trailers-only UNIMPLEMENTED", ["gzip", "identity"]))

    @pytest.mark.parametrize("name", CORRUPT)
    async def test_11_corrupt_gzip(self, agree: Agree, name: str) -> None:
        parts = [(grpc_message(CORRUPT[name], 1), END_STREAM)]
        agree(await self.ask(UNARY, parts, GZIP), "trailers-only INTERNAL")

    @pytest.mark.parametrize("flag", [0, 1])
    @pytest.mark.parametrize("path", [EMPTY, UNARY], ids=method_name)
    async def test_11_gzip_may_be_used_or_not(self, agree: Agree, path: str, flag: int) -> None:
        payload = gzip.compress(b"") if flag else b""
        agree(await self.ask(path, [(grpc_message(payload, flag), END_STREAM)], GZIP), OK)

    async def test_11_compressed_and_plain_in_one_stream(self, agree: Agree) -> None:
        async with self.serving() as served, served.raw() as client:
            plain, packed = input_message(100), gzip.compress(input_message(30))
            raw = grpc_message(packed, 1) + grpc_message(plain) + grpc_message(packed, 1)
            stream = await send_parts(client, INPUT, split(raw, 7, 40), GZIP)
            state = await client.finished(stream)
            reply = pb.StreamingInputCallResponse.FromString(state.messages[0][1])
            agree((state.status, reply.aggregated_payload_size), (0, 160))

    @pytest.mark.parametrize("path", [UNARY, INPUT, DUPLEX, OUTPUT], ids=method_name)
    @pytest.mark.parametrize("length", [LIMIT + 1, 2**31 - 1, 2**31, 2**32 - 1])
    async def test_12_too_long_by_its_prefix(self, agree: Agree, length: int, path: str) -> None:
        # The five bytes are all that is sent: nobody waits for the rest.
        parts = [(grpc_message(b"", length=length), 0)]
        agree(await self.ask(path, parts), "trailers-only RESOURCE_EXHAUSTED")

    @pytest.mark.parametrize("path", [UNARY, INPUT], ids=method_name)
    @pytest.mark.parametrize("over", [0, 1], ids=["the limit", "one more"])
    async def test_12_length(self, agree: Agree, over: int, path: str) -> None:
        async with self.serving() as served, served.raw() as client:
            stream = await client.start(request_headers(path))
            await client.send_data(stream, grpc_message(body(LIMIT + over)), end=True)
            demanded = "trailers-only RESOURCE_EXHAUSTED" if over else OK
            agree(await self.outcome(client, stream), demanded)

    @pytest.mark.parametrize(
        ("size", "demanded"),
        [
            (LIMIT, OK),
            (LIMIT + 1, "trailers-only RESOURCE_EXHAUSTED"),
            (LIMIT * 8, "trailers-only RESOURCE_EXHAUSTED"),
        ],
        ids=["the limit", "one more", "a bomb"],
    )
    async def test_12_decompressed_length(self, agree: Agree, size: int, demanded: str) -> None:
        payload = gzip.compress(body(size))
        async with self.serving() as served, served.raw() as client:
            stream = await client.start(request_headers(UNARY, GZIP))
            await client.send_data(stream, grpc_message(payload, 1), end=True)
            agree(await self.outcome(client, stream), demanded)

    @pytest.mark.parametrize("path", [EMPTY, UNARY, OUTPUT, INPUT, DUPLEX], ids=method_name)
    @pytest.mark.parametrize(
        "raw", [b"\0", b"\0\0\0\0", b"\0\0\0\0\1", b"\0\0\0\0\5four"], ids=lambda raw: raw.hex()
    )
    async def test_13_cut_short(self, agree: Agree, raw: bytes, path: str) -> None:
        agree(await self.ask(path, [(raw, END_STREAM)]), "trailers-only INTERNAL")

    async def test_13_cut_short_after_a_whole_message(self, agree: Agree) -> None:
        raw = grpc_message(input_message(3)) + b"\0\0"
        agree(await self.ask(INPUT, [(raw, END_STREAM)]), "trailers-only INTERNAL")

    @pytest.mark.parametrize("path", [EMPTY, UNARY, OUTPUT], ids=method_name)
    @pytest.mark.parametrize("count", [0, 2, 3])
    async def test_13_not_one_request(self, agree: Agree, count: int, path: str) -> None:
        parts = [(grpc_message(b"") * count, END_STREAM)]
        agree(await self.ask(path, parts), "trailers-only UNIMPLEMENTED")

    @pytest.mark.parametrize("path", [EMPTY, UNARY, OUTPUT], ids=method_name)
    async def test_13_headers_alone_end_the_request(self, agree: Agree, path: str) -> None:
        async with self.serving() as served, served.raw() as client:
            stream = await client.start(request_headers(path), end=True)
            words = await self.outcome(client, stream)
            demanded = ("trailers-only UNIMPLEMENTED", "none ran")
            agree((words, served.recorder.ends), demanded)

    @pytest.mark.parametrize("path", [EMPTY, UNARY, OUTPUT], ids=method_name)
    async def test_13_second_request_in_a_later_frame(self, agree: Agree, path: str) -> None:
        parts = [(grpc_message(b""), 0), (grpc_message(b""), END_STREAM)]
        async with self.serving() as served, served.raw() as client:
            words = await self.outcome(client, await send_parts(client, path, parts))
            demanded = ("trailers-only UNIMPLEMENTED", "none ran")
            agree((words, served.recorder.ends), demanded)

    async def test_13_no_request_of_a_stream_is_fine(self, agree: Agree) -> None:
        agree(await self.ask(INPUT, [(b"", END_STREAM)]), OK)

    @pytest.mark.parametrize("path", [UNARY, OUTPUT, INPUT, DUPLEX], ids=method_name)
    async def test_14_requests_that_do_not_parse(self, agree: Agree, path: str) -> None:
        async with self.serving() as served, served.raw() as client:
            stream = await send_parts(client, path, [(grpc_message(b"\x0a\x09ab"), END_STREAM)])
            words = await self.outcome(client, stream)
            message = client.streams[stream].message
            named = message.startswith("request: 4 bytes that do not parse")
            agree((words, named), ("trailers-only INVALID_ARGUMENT", True))

    @pytest.mark.parametrize("path", [UNARY, OUTPUT, INPUT, DUPLEX], ids=method_name)
    async def test_14_bugs_do_not_leak(self, agree: Agree, path: str) -> None:
        def bug(_call: object) -> None:
            raise KeyError("the inside of the house")

        async with self.serving() as served, served.raw() as client:
            served.recorder.before = bug
            stream = await send_parts(client, path, [(grpc_message(b""), END_STREAM)])
            words = await self.outcome(client, stream)
            message = client.streams[stream].message
            leaks = [word for word in ("house", "KeyError", "Traceback", "bug") if word in message]
            agree((words, leaks), ("trailers-only UNKNOWN", []))

    @pytest.mark.parametrize(
        ("accepted", "flag"),
        [
            (None, 0),
            ("", 0),
            ("identity", 0),
            ("deflate,br", 0),
            ("xgzip,gzipx", 0),
            ("gzip", 1),
            ("identity,deflate,gzip", 1),
            ("identity, gzip ,deflate", 1),
        ],
        ids=str,
    )
    async def test_15_compressed_only_if_accepted(
        self, agree: Agree, accepted: str | None, flag: int
    ) -> None:
        request = pb.SimpleRequest(response_size=1_000, response_compressed={"value": True})
        extra = [] if accepted is None else [("grpc-accept-encoding", accepted)]
        async with self.serving() as served, served.raw() as client:
            stream = await client.call(UNARY, request.SerializeToString(), extra=extra)
            state = await client.finished(stream)
            flags = [flag for flag, _ in state.messages]
            bodies = [pb.SimpleResponse.FromString(_plain(*pair)) for pair in state.messages]
            sizes = [len(body.payload.body) for body in bodies]
            encoding = state.header("grpc-encoding") if flag else None
            demanded = (0, [flag], [1_000], "gzip" if flag else None)
            agree((state.status, flags, sizes, encoding), demanded)

    async def test_15_each_message_may_opt_out(self, agree: Agree) -> None:
        request = pb.StreamingOutputCallRequest()
        for packed in (True, False, True, True):
            request.response_parameters.add(size=500, compressed={"value": packed})
        async with self.serving() as served, served.raw() as client:
            extra = [("grpc-accept-encoding", "gzip")]
            stream = await client.call(DUPLEX, request.SerializeToString(), extra=extra)
            state = await client.finished(stream)
            # Each decompresses by itself: the context is fresh.
            sizes = [
                len(pb.StreamingOutputCallResponse.FromString(_plain(flag, raw)).payload.body)
                for flag, raw in state.messages
            ]
            flags = [flag for flag, _ in state.messages]
            agree((state.status, flags, sizes), (0, [1, 0, 1, 1], [500] * 4))


def _plain(flag: int, raw: bytes) -> bytes:
    return gzip.decompress(raw) if flag else raw
