"""Cases of replies and statuses: their shape, their end, and what ends them before their time."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from hyperframe.frame import DataFrame, SettingsFrame

from feedcore_server import limits
from feedcore_server.status import MESSAGE_CHARS_MAX_WIDE
from tests.conformance.harness import (
    DUPLEX,
    EMPTY,
    INPUT,
    OUTPUT,
    STATUS_NAMES,
    UNARY,
    Agree,
    Harness,
    alive,
    described,
    until,
)
from tests.support.rawclient import Code, RawClient, grpc_message, request_headers
from tests.support.testservice import pb

OK = "1 message, OK"
TIMEOUT = ("grpc-timeout", "150m")
MESSAGES = {
    "plain": "nothing special",
    "odd": "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n",
    "percent": "100% of %41 and %",
    "edges": "\x1f \x7e\x7f\x80",
    "all of ascii": "".join(map(chr, range(128))),
}
# What a caller had sent and seen when it gave up: the path, and the messages (with prefix) sent.
STAGES: dict[str, tuple[str, bytes]] = {
    "unary, after headers": (UNARY, b""),
    "unary, inside a message": (UNARY, grpc_message(b"", length=90) + b"\x1a"),
    "unary, after the half-close": (UNARY, grpc_message(b"")),
    "client stream, after headers": (INPUT, b""),
    "client stream, inside a message": (INPUT, grpc_message(b"") + b"\0\0"),
    "server stream, replies under way": (OUTPUT, b""),
    "both streams, between messages": (DUPLEX, b""),
}
EARLY_END = ["HEADERS END_STREAM", "RSTSTREAM NO_ERROR"]
NEVER_RUN = {"unary, after headers", "unary, inside a message"}
HANG_UPS = ["RST_STREAM", "half-close of TCP", "close of TCP", "reset of TCP"]


def failing(code: int, message: str = "") -> bytes:
    """A request that asks for this status."""
    status = {"code": code, "message": message}
    encoded: bytes = pb.SimpleRequest(response_status=status).SerializeToString()
    return encoded


def replies(*sizes: int, interval_us: int = 0) -> bytes:
    """A request for replies of these sizes."""
    request = pb.StreamingOutputCallRequest()
    for size in sizes:
        request.response_parameters.add(size=size, interval_us=interval_us)
    encoded: bytes = request.SerializeToString()
    return encoded


class ReplyCases(Harness):
    """Behaviours 16 to 18."""

    @pytest.mark.parametrize(
        ("path", "message", "count"),
        [(EMPTY, b"", 1), (UNARY, b"", 1), (INPUT, b"", 1), (DUPLEX, replies(0, 1, 2_000), 3)],
        ids=["EmptyCall", "UnaryCall", "StreamingInputCall", "FullDuplexCall"],
    )
    async def test_16_shape(self, agree: Agree, path: str, message: bytes, count: int) -> None:
        async with self.serving() as served, served.raw() as client:
            state = await client.finished(await client.call(path, message))
            kinds = [" ".join(words.split()[::2][:2]) for words in state.frames]
            shape = re.sub("(DATA [0-9]+ ?)+", "DATA ", " ".join(kinds))
            first = dict(state.headers or [])
            facts = (first[":status"], first["content-type"], "grpc-status" in first)
            names = [name for name, _ in state.trailers or [] if name.startswith(":")]
            agree(
                (shape, facts, names, len(state.messages), dict(state.closing)["grpc-status"]),
                (
                    "HEADERS DATA HEADERS END_STREAM",
                    ("200", "application/grpc", False),
                    [],
                    count,
                    "0",
                ),
            )

    @pytest.mark.parametrize("code", range(1, 17), ids=lambda code: STATUS_NAMES[code])
    async def test_16_errors_are_one_frame(self, agree: Agree, code: int) -> None:
        async with self.serving() as served, served.raw() as client:
            stream = await client.call(UNARY, failing(code, "because"))
            state = await client.finished(stream)
            sent = (state.http_status, dict(state.closing)["grpc-status"], state.message)
            agree((state.trailers_only, sent), (True, (200, str(code), "because")))

    async def test_16_errors_after_replies_are_trailers(self, agree: Agree) -> None:
        async with self.serving() as served, served.raw() as client:
            last = pb.StreamingOutputCallRequest(response_status={"code": 5}).SerializeToString()
            stream = await client.call(DUPLEX, replies(3, 4), last)
            agree(await self.outcome(client, stream), "2 messages, NOT_FOUND")

    async def test_16_a_stream_without_replies(self, agree: Agree) -> None:
        async with self.serving() as served, served.raw() as client:
            words = await self.outcome(client, await client.call(DUPLEX, b""))
            # Both shapes are legal; what matters is that there is a status and nothing else.
            agree(words.replace("0 messages,", "trailers-only"), "trailers-only OK")

    @pytest.mark.parametrize("name", MESSAGES)
    async def test_17_message(self, agree: Agree, name: str) -> None:
        text = MESSAGES[name]
        encoded = "".join(
            chr(byte) if 0x20 <= byte <= 0x7E and byte != 0x25 else f"%{byte:02X}"
            for byte in text.encode()
        )
        async with self.serving() as served, served.raw() as client:
            state = await client.finished(await client.call(UNARY, failing(2, text)))
            agree((dict(state.closing)["grpc-message"], state.message), (encoded, text))

    async def test_17_long_messages_are_cut_between_characters(self, agree: Agree) -> None:
        async with self.serving() as served, served.raw() as client:
            state = await client.finished(await client.call(UNARY, failing(2, "☺" * 5_000)))
            agree(state.message, "☺" * MESSAGE_CHARS_MAX_WIDE)

    @pytest.mark.parametrize(
        ("path", "message"),
        [
            ("/no/such", b""),
            (UNARY, grpc_message(b"", length=2**31)),
            (UNARY, grpc_message(b"", 9)),
            (DUPLEX, grpc_message(failing(3))),
        ],
        ids=["unknown method", "too long", "bad flag", "handler"],
    )
    async def test_18_early_end(self, agree: Agree, path: str, message: bytes) -> None:
        async with self.serving() as served, served.raw() as client:
            stream = await client.start(request_headers(path))
            await client.send(DataFrame(stream, message))
            await self.seen(client, client.was_reset(stream))
            # What was on its way when the reset came does no harm.
            late = DataFrame(stream, grpc_message(b""))
            await client.send(late, DataFrame(stream, b"", flags=["END_STREAM"]))
            agree((answers(client, stream), await alive(client)), (EARLY_END, True))

    @pytest.mark.parametrize("message", [b"", failing(3)], ids=["OK", "an error"])
    async def test_18_no_reset_after_both_ends(self, agree: Agree, message: bytes) -> None:
        async with self.serving() as served, served.raw() as client:
            stream = await client.call(UNARY, message)
            state = await client.finished(stream)
            agree((await alive(client), state.reset), (True, None))


class EndingCases(Harness):
    """Behaviours 19 and 20."""

    async def test_19_deadline_with_nothing_queued(self, agree: Agree) -> None:
        async with self.serving() as served, served.raw() as client:
            served.recorder.hold = asyncio.Event()
            stream = await client.call(UNARY, b"", extra=[TIMEOUT])
            words = await self.outcome(client, stream)
            demanded = ("trailers-only DEADLINE_EXCEEDED", "1 cancelled")
            agree((words, await self.ends(served)), demanded)

    async def test_19_deadline_before_the_request_ends(self, agree: Agree) -> None:
        async with self.serving() as served, served.raw() as client:
            stream = await client.call(INPUT, extra=[TIMEOUT], end=False)
            await self.seen(client, client.was_reset(stream))
            words = described(client.streams[stream])
            demanded = (EARLY_END, "trailers-only DEADLINE_EXCEEDED", "1 cancelled")
            agree((answers(client, stream), words, await self.ends(served)), demanded)

    async def test_19_deadline_after_replies(self, agree: Agree) -> None:
        async with self.serving() as served, served.raw() as client:
            stream = await client.call(DUPLEX, replies(10), extra=[TIMEOUT], end=False)
            state = await client.finished(stream)
            demanded = ("1 message, DEADLINE_EXCEEDED", "1 cancelled")
            agree((described(state), await self.ends(served)), demanded)

    @pytest.mark.parametrize("case", ["replies under way", "reply complete"])
    async def test_19_deadline_with_a_queue(self, agree: Agree, case: str) -> None:
        async with self.serving() as served, served.raw({INITIAL_WINDOW: 0}) as client:
            if case == "reply complete":
                stream = await client.call(UNARY, b"", extra=[TIMEOUT])
            else:
                stream = await client.call(OUTPUT, replies(*[60_000] * 9), extra=[TIMEOUT])
            words = await self.outcome(client, stream)
            ran = "1 finished" if case == "reply complete" else "1 cancelled"
            agree((words, await self.ends(served)), ("RST_STREAM CANCEL after headers", ran))

    async def test_19_deadline_of_a_request_that_never_ends(self, agree: Agree) -> None:
        async with self.serving() as served, served.raw() as client:
            stream = await client.start(request_headers(UNARY, TIMEOUT))
            words = await self.outcome(client, stream)
            demanded = ("trailers-only DEADLINE_EXCEEDED", "none ran")
            agree((words, await self.ends(served)), demanded)

    @pytest.mark.parametrize("how", HANG_UPS)
    @pytest.mark.parametrize("stage", STAGES)
    async def test_19_hang_up(self, agree: Agree, stage: str, how: str) -> None:
        path, data = STAGES[stage]
        async with self.serving() as served, served.raw() as client:
            if stage == "unary, after the half-close":
                served.recorder.hold = asyncio.Event()
            if path == OUTPUT:
                data = grpc_message(replies(*[60_000] * 9))
            stream = await client.start(request_headers(path))
            ended = path == OUTPUT or stage == "unary, after the half-close"
            if data:
                flags = ["END_STREAM"] if ended else []
                await client.send(DataFrame(stream, data, flags=flags))
            runs = stage not in NEVER_RUN
            if runs:
                await until(lambda: served.recorder.started == 1)
            else:
                await client.ping()
            if path == OUTPUT:
                state = client.streams[stream]
                await client.until(lambda: len(state.data) > 60_000, "the first replies")
            await hang_up(client, stream, how)
            async with served.raw() as other:
                assert await alive(other)
            agree(await self.ends(served), "1 cancelled" if runs else "none ran")

    async def test_19_hang_up_frees_the_slots(self, agree: Agree) -> None:
        streams_max = limits.STREAMS_PER_CONNECTION_MAX
        async with self.serving() as served, served.raw() as client:
            served.recorder.hold = asyncio.Event()
            for _ in range(3):
                before = served.recorder.started
                streams = [await client.call(UNARY, b"") for _ in range(streams_max)]
                await until(lambda count=before: served.recorder.started == count + streams_max)
                for stream in streams:
                    await client.cancel(stream)
                await until(lambda: served.recorder.running == 0)
            agree(served.recorder.ends, f"{3 * streams_max} cancelled")

    async def test_20_too_many_streams(self, agree: Agree) -> None:
        streams_max = limits.STREAMS_PER_CONNECTION_MAX
        async with self.serving() as served, served.raw() as client:
            assert client.settings is not None
            told = client.settings[SettingsFrame.MAX_CONCURRENT_STREAMS]
            served.recorder.hold = asyncio.Event()
            streams = [await client.call(UNARY, b"") for _ in range(streams_max)]
            await until(lambda: served.recorder.started == streams_max)
            refused = await client.call(UNARY, b"")
            words = await self.seen(client, client.was_reset(refused))
            served.recorder.hold.set()
            served.recorder.hold = None
            others: object = "ended, too"
            if words == Code.REFUSED_STREAM:
                others = {(await client.finished(stream)).status for stream in streams}
            agree((told, words, others), (streams_max, Code.REFUSED_STREAM, {0}))

    async def test_20_too_many_streams_before_settings_are_acknowledged(self, agree: Agree) -> None:
        # A client may not know the limit yet: what is above it is refused, and may be tried again.
        streams_max = limits.STREAMS_PER_CONNECTION_MAX
        async with self.serving() as served, await RawClient.connect(served.port) as client:
            client.answer_settings = False
            await client.handshake()
            served.recorder.hold = asyncio.Event()
            streams = [await client.call(UNARY, b"") for _ in range(streams_max + 3)]
            late = streams[streams_max:]
            codes = {await self.seen(client, client.was_reset(stream)) for stream in late}
            served.recorder.hold.set()
            statuses = {(await client.finished(stream)).status for stream in streams[:streams_max]}
            agree((codes, statuses), ({Code.REFUSED_STREAM}, {0}))

    async def test_20_a_full_worker_refuses_with_a_hint(self, agree: Agree) -> None:
        async with self.serving(calls_max=3) as served, served.raw() as client:
            released = served.recorder.hold = asyncio.Event()
            streams = [await client.call(UNARY, b"") for _ in range(3)]
            await until(lambda: served.recorder.started == 3)
            refused = await client.finished(await client.call(UNARY, b""))
            hint = "retry-after-ms" in dict(refused.closing)
            released.set()
            words = {await self.outcome(client, stream) for stream in streams}
            demanded = ("trailers-only RESOURCE_EXHAUSTED", True, {OK})
            agree((described(refused), hint, words), demanded)


INITIAL_WINDOW = SettingsFrame.INITIAL_WINDOW_SIZE


def answers(client: RawClient, stream: int) -> list[str]:
    """The frames that came on a stream, but for its windows."""
    frames = [frame.replace(f" {stream}", "", 1) for frame in client.streams[stream].frames]
    return [frame for frame in frames if not frame.startswith("WINDOWUPDATE")]


async def hang_up(client: RawClient, stream: int, how: str) -> Any:
    """Gives up."""
    if how == "RST_STREAM":
        await client.cancel(stream)
    elif how == "half-close of TCP":
        client.half_close()
    else:
        await client.close(reset=how == "reset of TCP")
