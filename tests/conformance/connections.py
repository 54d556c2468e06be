"""Cases of connections: drain, keepalive, and flow control in both directions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hyperframe.frame import DataFrame, PingFrame, SettingsFrame, WindowUpdateFrame

from tests.conformance.harness import (
    DUPLEX,
    EMPTY,
    INPUT,
    OUTPUT,
    PATIENCE_S,
    UNARY,
    Agree,
    Harness,
    Served,
    alive,
    described,
    ended,
    until,
)
from tests.conformance.messages import input_message
from tests.conformance.replies import replies
from tests.support.rawclient import (
    WINDOW_BYTES,
    Closed,
    Code,
    RawClient,
    grpc_message,
    raw_frame,
    request_headers,
)
from tests.support.testservice import pb

OK = "1 message, OK"
INITIAL_WINDOW = SettingsFrame.INITIAL_WINDOW_SIZE
EVERY_STREAM = 2**31 - 1
CALM = Code.ENHANCE_YOUR_CALM
SHORT_S = 0.3  # of timers that a case waits for
TOTAL = 16_000_000  # bytes of a stream of requests, far above every window
LONG_S = 30.0  # of timers that must not be what a case sees


@asynccontextmanager
async def stopping(served: Served, grace_s: float) -> AsyncIterator[asyncio.Task[None]]:
    """A stop under way; it has come to its end afterwards."""
    task = asyncio.create_task(served.transport.stop(grace_s))
    try:
        yield task
    finally:
        await asyncio.wait_for(task, PATIENCE_S)


async def second_goaway(client: RawClient) -> tuple[int, int, bytes]:
    """Reads until the second GOAWAY; that."""
    await client.until(lambda: len(client.goaways) == 2, "the second GOAWAY")
    return client.goaways[-1]


class DrainCases(Harness):
    """Behaviour 21."""

    @asynccontextmanager
    async def held_call(self, **bounds: float) -> AsyncIterator[tuple[Served, RawClient, int]]:
        """A server, a connection, and a call under way whose handler waits; later ones do not."""
        async with self.serving(**bounds) as served, served.raw() as client:
            served.recorder.hold = asyncio.Event()
            stream = await client.call(UNARY, b"")
            await until(lambda: served.recorder.started == 1)
            self.release, served.recorder.hold = served.recorder.hold, None
            yield served, client, stream

    async def test_21_drain_in_two_steps(self, agree: Agree) -> None:
        async with self.held_call() as (served, client, held):
            async with stopping(served, PATIENCE_S):
                first = await client.goaway()
                client.answer_pings = False
                pings = len(client.pings)
                await client.until(lambda: len(client.pings) > pings, "a PING")
                between = await self.outcome_only(client, await client.call(EMPTY, b""))
                await client.send(PingFrame(0, client.pings[-1], flags=["ACK"]))
                second = await self.seen(client, second_goaway(client))
                self.release.set()
                last = await self.outcome_only(client, held)
                closed = await client.hung_up()
        demanded = ((EVERY_STREAM, 0, b""), OK, (held + 2, 0, b""), OK, "eof")
        agree((first, between, second, last, closed), demanded)

    async def test_21_drain_does_not_wait_for_ever_for_an_answer(self, agree: Agree) -> None:
        async with self.held_call(goaway_ack_s=SHORT_S) as (served, client, held):
            client.answer_pings = False
            async with stopping(served, PATIENCE_S):
                second = await self.seen(client, second_goaway(client))
                self.release.set()
                words = await self.outcome_only(client, held)
        agree((second, words), ((held, 0, b""), OK))

    async def test_21_calls_after_the_last_goaway_are_not_begun(self, agree: Agree) -> None:
        async with self.held_call() as (served, client, held):
            async with stopping(served, PATIENCE_S):
                await self.seen(client, second_goaway(client))
                late = await client.call(EMPTY, b"")
                self.release.set()
                words = await self.outcome_only(client, held)
                await client.hung_up()
            silent = [frame for frame in client.streams[late].frames if "HEADERS" in frame]
            agree((words, silent, served.recorder.started), (OK, [], 1))

    async def test_21_the_grace_has_an_end(self, agree: Agree) -> None:
        async with self.held_call() as (served, client, held):
            async with stopping(served, SHORT_S):
                words = await self.outcome_only(client, held)
                closed = await client.hung_up()
            demanded = ("trailers-only CANCELLED", "eof", "1 cancelled")
            agree((words, closed, await self.ends(served)), demanded)

    async def test_21_idle_connections_close_at_once(self, agree: Agree) -> None:
        async with self.serving() as served, served.raw() as client:
            async with stopping(served, LONG_S):
                closed = await client.hung_up()
            agree((closed, {code for _, code, _ in client.goaways}), ("eof", {0}))

    async def test_21_nobody_can_connect_while_draining(self, agree: Agree) -> None:
        async with self.held_call() as (served, client, held):
            async with stopping(served, PATIENCE_S):
                await client.goaway()
                try:
                    late = await RawClient.connect(served.port)
                    await late.handshake()
                    words = "served"
                except (OSError, Closed):
                    words = "refused"
                self.release.set()
                await client.finished(held)
            agree(words, "refused")

    async def test_21_age(self, agree: Agree) -> None:
        async with self.held_call(age_s=SHORT_S) as (_, client, held):
            second = await self.seen(client, second_goaway(client))
            self.release.set()
            words = await self.outcome_only(client, held)
            closed = await client.hung_up()
            agree((second, words, closed), ((held, 0, b"max_age"), OK, "eof"))

    async def test_21_age_with_an_end_of_grace(self, agree: Agree) -> None:
        async with self.held_call(age_s=SHORT_S, age_grace_s=SHORT_S) as (served, client, held):
            words = await self.outcome_only(client, held)
            closed = await client.hung_up()
            demanded = ("trailers-only CANCELLED", "eof", "1 cancelled")
            agree((words, closed, await self.ends(served)), demanded)

    async def test_21_idleness(self, agree: Agree) -> None:
        async with self.held_call(idle_s=SHORT_S) as (served, busy, held):
            async with served.raw() as idle:
                closed = await idle.hung_up()
            # The busy connection is older than the one that was closed.
            self.release.set()
            words = await self.outcome_only(busy, held)
            facts = (idle.goaways[-1][1:], closed, words, busy.goaways)
            agree(facts, ((0, b"max_idle"), "eof", OK, []))


class KeepaliveCases(Harness):
    """Behaviour 22."""

    async def test_22_the_server_pings_without_calls(self, agree: Agree) -> None:
        async with self.serving(keepalive_s=SHORT_S) as served, served.raw() as client:
            await client.until(lambda: len(client.pings) == 3, "three PINGs, each answered")
            agree(await alive(client), True)

    async def test_22_no_answer_is_the_end(self, agree: Agree) -> None:
        timers = {"keepalive_s": SHORT_S, "keepalive_timeout_s": SHORT_S}
        async with self.serving(**timers) as served, served.raw() as client:
            client.answer_pings = False
            served.recorder.hold = asyncio.Event()
            await client.call(UNARY, b"")
            await until(lambda: served.recorder.started == 1)
            how = await self.seen(client, client.hung_up())
            agree((len(client.pings), how, await self.ends(served)), (1, "eof", "1 cancelled"))

    async def test_22_too_many_pings(self, agree: Agree) -> None:
        async with self.serving() as served, served.raw() as client:
            try:
                for _ in range(20):
                    await client.ping()
                last = (0, 0, b"")
            except Closed:
                last = client.goaways[-1]
            agree((last[1:], len(client.pongs) <= 4), ((CALM, b"too_many_pings"), True))

    async def test_22_pings_between_calls_are_forgiven(self, agree: Agree) -> None:
        async with self.serving() as served, served.raw() as client:
            for _ in range(20):
                await client.finished(await client.call(EMPTY, b""))
                await client.ping()
            agree((await alive(client), client.goaways), (True, []))

    async def test_22_pings_at_the_permitted_rate(self, agree: Agree) -> None:
        async with self.serving(ping_interval_s=0.01) as served, served.raw() as client:
            for _ in range(20):
                await client.ping()
                await asyncio.sleep(0.02)
            agree((await alive(client), client.goaways), (True, []))


class FlowCases(Harness):
    """Behaviour 23."""

    async def test_23_a_slow_reader_pauses_the_handler(self, agree: Agree) -> None:
        count, size = 200, 60_000
        async with self.serving() as served, served.raw() as client:
            stream = await client.call(OUTPUT, replies(*[size] * count))
            state = client.streams[stream]
            await client.until(lambda: len(state.data) == WINDOW_BYTES, "the window's worth")
            await client.ping()
            ahead = served.recorder.sent
            while not state.ended:
                seen = len(state.data)
                await client.widen(0, WINDOW_BYTES)
                await client.widen(stream, WINDOW_BYTES)
                await client.until(
                    lambda seen=seen: state.over or len(state.data) >= seen + WINDOW_BYTES, "more"
                )
            facts = (ahead <= 4, len(state.messages), state.status)
            agree(facts, (True, count, 0))

    async def test_23_no_window_to_begin_with(self, agree: Agree) -> None:
        async with self.serving() as served, served.raw({INITIAL_WINDOW: 0}) as client:
            stream = await client.call(
                UNARY, pb.SimpleRequest(response_size=40).SerializeToString()
            )
            state = client.streams[stream]
            await client.until(lambda: state.headers is not None, "headers")
            sizes = []
            for step in (1, 4, 10):
                await client.widen(stream, step)
                before = len(state.data)
                await client.until(lambda n=before: len(state.data) > n, "DATA")
                sizes.append(len(state.data) - before)
            await client.widen(stream, 100)
            words = await self.outcome(client, stream)
            agree((sizes, words), ([1, 4, 10], OK))

    async def test_23_settings_make_the_window_negative(self, agree: Agree) -> None:
        async with self.serving() as served, served.raw() as client:
            stream = await client.call(
                UNARY, pb.SimpleRequest(response_size=200_000).SerializeToString()
            )
            state = client.streams[stream]
            await client.until(lambda: len(state.data) == WINDOW_BYTES, "the window's worth")
            await client.widen(0, 1 << 20)
            # 100 - 65,535 = -65,435: so many bytes only bring the window back to 0.
            await client.send(SettingsFrame(0, settings={INITIAL_WINDOW: 100}))
            await client.widen(stream, WINDOW_BYTES - 100)
            await client.ping()
            at_zero = len(state.data) - WINDOW_BYTES
            await client.widen(stream, 1)
            await client.until(lambda: len(state.data) > WINDOW_BYTES, "one byte more")
            one_more = len(state.data) - WINDOW_BYTES
            await client.widen(stream, 1 << 20)
            agree((at_zero, one_more, await self.outcome(client, stream)), (0, 1, OK))

    async def test_23_one_stalled_stream_stalls_no_other(self, agree: Agree) -> None:
        async with self.serving() as served, served.raw() as client:
            await client.widen(0, 1 << 24)
            stalled = [await client.call(OUTPUT, replies(*[60_000] * 9)) for _ in range(20)]
            states = [client.streams[stream] for stream in stalled]
            await client.until(
                lambda: all(len(state.data) == WINDOW_BYTES for state in states), "20 stalled"
            )
            others = {
                described(await client.finished(await client.call(UNARY, b""))) for _ in range(50)
            }
            for stream in stalled:
                await client.widen(stream, 1 << 20)
            words = {described(await client.finished(stream)) for stream in stalled}
            agree((others, words), ({OK}, {"9 messages, OK"}))

    async def test_23_an_exhausted_connection_holds_data_back_and_nothing_else(
        self, agree: Agree
    ) -> None:
        async with self.serving() as served, served.raw({INITIAL_WINDOW: 1 << 20}) as client:
            first = await client.call(OUTPUT, replies(*[60_000] * 3))
            state = client.streams[first]
            await client.until(lambda: len(state.data) == WINDOW_BYTES, "the window's worth")
            refused = described(await client.finished(await client.call("/no/such", b"")))
            waiting = await client.call(UNARY, b"")
            await client.until(lambda: client.streams[waiting].headers is not None, "headers")
            held_back = len(client.streams[waiting].data)
            await client.widen(0, 1 << 20)
            words = [await self.outcome(client, stream) for stream in (first, waiting)]
            demanded = ("trailers-only UNIMPLEMENTED", 0, ["3 messages, OK", OK])
            agree((refused, held_back, words), demanded)

    async def test_23_a_slow_handler_withholds_the_window(self, agree: Agree) -> None:
        async with self.serving() as served, served.raw() as client:
            released = served.recorder.hold = asyncio.Event()
            stream = await client.start(request_headers(INPUT))
            message = grpc_message(input_message(10_000))
            # What is allowed at first is taken, and nothing more while the handler waits.
            state, sent = client.streams[stream], 0
            for _ in range(2):
                while min(state.credit, client.credit) >= len(message) and sent < TOTAL:
                    await client.send_data(stream, message)
                    sent += 10_000
                await client.ping()
            withheld = sent < TOTAL / 2
            released.set()
            while sent < TOTAL:
                await client.send_data(stream, message)
                sent += 10_000
            await client.send(DataFrame(stream, b"", flags=["END_STREAM"]))
            state = await client.finished(stream)
            reply = pb.StreamingInputCallResponse.FromString(state.messages[0][1])
            agree((withheld, reply.aggregated_payload_size), (True, sent))

    async def test_23_slow_handlers_stall_no_other_call(self, agree: Agree) -> None:
        async with self.serving() as served, served.raw() as client:
            released = served.recorder.hold = asyncio.Event()
            slow = [await client.start(request_headers(INPUT)) for _ in range(20)]
            message = grpc_message(input_message(20_000))
            for stream in slow:
                while client.streams[stream].credit >= len(message):
                    await client.send_data(stream, message)
            served.recorder.hold = None
            words = {
                described(await client.finished(await client.call(UNARY, b""))) for _ in range(20)
            }
            released.set()
            agree(words, {OK})

    @pytest.mark.parametrize("where", ["stream", "connection"])
    async def test_23_windows_that_overflow(self, agree: Agree, where: str) -> None:
        async with self.serving() as served, served.raw() as client:
            served.recorder.hold = asyncio.Event()
            stream = await client.call(UNARY, b"")
            number = stream if where == "stream" else 0
            await client.widen(number, 2**31 - 1)
            words = await self.outcome(client, stream)
            demanded = {
                "stream": "RST_STREAM FLOW_CONTROL_ERROR",
                "connection": "GOAWAY FLOW_CONTROL_ERROR",
            }
            agree((words, await self.ends(served)), (demanded[where], "1 cancelled"))

    async def test_23_more_than_the_window(self, agree: Agree) -> None:
        async with self.serving() as served, served.raw() as client:
            served.recorder.hold = asyncio.Event()
            stream = await client.start(request_headers(INPUT))
            total = client.streams[stream].credit + 2 * 16_384
            frames = [DataFrame(stream, bytes(16_384)) for _ in range(total // 16_384 + 1)]
            await client.send(*frames)
            words = await self.outcome(client, stream)
            agree(
                (words, await self.ends(served)), ("RST_STREAM FLOW_CONTROL_ERROR", "1 cancelled")
            )

    @pytest.mark.parametrize(
        ("frame", "demanded"),
        [
            (WindowUpdateFrame(0, window_increment=1).serialize()[:9] + bytes(4), "PROTOCOL_ERROR"),
            (raw_frame(8, 0, 0, bytes(3)), "FRAME_SIZE_ERROR"),
            (raw_frame(4, 0, 0, bytes(5)), "FRAME_SIZE_ERROR"),
            (raw_frame(4, 0, 1, bytes(6)), "PROTOCOL_ERROR"),
            (raw_frame(4, 0, 0, b"\0\4\x80\0\0\0"), "FLOW_CONTROL_ERROR"),
            (raw_frame(6, 0, 0, bytes(7)), "FRAME_SIZE_ERROR"),
            (raw_frame(0, 0, 0, b"x"), "PROTOCOL_ERROR"),
            (raw_frame(0, 0, 1, length=16_385), "FRAME_SIZE_ERROR"),
            (raw_frame(1, 4, 2, b""), "PROTOCOL_ERROR"),
            (raw_frame(9, 4, 1, b""), "PROTOCOL_ERROR"),
            (raw_frame(3, 0, 9, bytes(4)), "PROTOCOL_ERROR"),
            (raw_frame(5, 4, 1, bytes(4)), "PROTOCOL_ERROR"),
        ],
        ids=[
            "WINDOW_UPDATE of 0",
            "WINDOW_UPDATE of 3 bytes",
            "SETTINGS of 5 bytes",
            "SETTINGS on a stream",
            "SETTINGS with a huge window",
            "PING of 7 bytes",
            "DATA on stream 0",
            "DATA too long",
            "HEADERS on an even stream",
            "CONTINUATION alone",
            "RST_STREAM of an idle stream",
            "PUSH_PROMISE",
        ],
    )
    async def test_23_frames_that_end_the_connection(
        self, agree: Agree, frame: bytes, demanded: str
    ) -> None:
        async with self.serving() as served, served.raw() as client:
            served.recorder.hold = asyncio.Event()
            await client.call(DUPLEX, end=False)
            await until(lambda: served.recorder.started == 1)
            await client.send(frame)
            silent = await self.seen(client, client.hung_up()) == "silence"
            words = "silence" if silent else ended(client)
            agree((words, await self.ends(served)), (f"GOAWAY {demanded}", "1 cancelled"))
