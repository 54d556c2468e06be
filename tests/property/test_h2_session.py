"""The session against a model, in any order of events: any caller, any handler, any cut of the
bytes.

The model (tests/support/callmodel.py) knows the one way in which each call must end; the peer
(tests/support/peer.py) holds every frame against HTTP/2. Invariants, after every step:

    one end            exactly one status or reset a call; what comes second changes nothing
    whole messages     requests and replies arrive whole and in order
    windows            never more DATA than the caller's windows allow, negative ones included;
                       a status waits for no window
    closed is closed   nothing is sent for a stream that is closed
    accounts           bytes held are those queued; zero when no call is open
    events             one CALL a call; one CLOSED for each handler that was at work; no handler
                       that waits is forgotten
    the end            after close() nothing is held and nothing is alive
"""

from __future__ import annotations

import gzip
import math
import os

from hyperframe.frame import SettingsFrame
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from feedcore_server.transports.native.bounds import Bounds
from tests.support.callmodel import Model
from tests.support.modelcall import BAD_REQUESTS, DECLINED, FAST, KINDS, REQUEST_MAX
from tests.support.peer import WINDOW_MAX, framed

LONG = os.environ.get("FEEDCORE_LONG") == "1"
PICK = st.integers(0, 10)
SIZES = st.sampled_from([0, 1, 5, 100, 299, 700, 1_500, REQUEST_MAX])
REPLY_SIZES = st.sampled_from([0, 1, 95, 300, 2_000, 17_000])
CUTS = st.one_of(st.integers(1, 30), st.sampled_from([100, 1_000, 10**9]))
WINDOWS = st.sampled_from([0, 1, 5, 100, 1_000, 65_535, 10_000_000])
MOSTLY = st.sampled_from([True, True, False])
PAIRS = st.lists(
    st.sampled_from([("key", "value"), ("a-bin", b"\0\xff"), ("key", "\u00e4"), ("empty", "")]),
    max_size=2,
)


class SessionMachine(RuleBasedStateMachine):
    """See the module."""

    model: Model

    @initialize(
        window=WINDOWS,
        stream_window=st.sampled_from([40, 300, 700, 65_535, 200_000]),
        streams_max=st.sampled_from([1, 3, 10]),
        sent_max=st.sampled_from([3_000, 40_000, 10**9]),
        stall_s=st.sampled_from([math.inf, math.inf, 30.0]),
    )
    def begin(
        self, window: int, stream_window: int, streams_max: int, sent_max: int, stall_s: float
    ) -> None:
        bounds = Bounds(
            stream_window=stream_window,
            streams_max=streams_max,
            sent_per_connection=sent_max,
            room_bytes=300,
        )
        first = {SettingsFrame.INITIAL_WINDOW_SIZE: window}
        self.model = Model(bounds, stall_s=stall_s, peer_settings=first)

    # --- the caller ---------------------------------------------------------------------------
    def pick(self, number: int, wanted):
        """One of the calls for which `wanted` holds, or None."""
        found = [call for call in self.model.calls if wanted(call)]
        return found[-1 - number % len(found)] if found else None

    @precondition(lambda self: self.model.peer.may_open())
    @rule(
        kind=st.sampled_from([*KINDS, FAST]),
        timeout=st.sampled_from(["", "", "", "5S", "1m", "1H", "0n"]),
        zipped=st.booleans(),
        pieces=st.integers(1, 4),
        at_once=MOSTLY,
    )
    def opens(self, kind: str, timeout: str, zipped: bool, pieces: int, at_once: bool) -> None:
        self.model.open(kind, timeout=timeout, gzip_requests=zipped, pieces=pieces)
        if at_once:
            self.model.deliver()

    @precondition(lambda self: self.model.peer.may_open())
    @rule(kind=st.sampled_from([*KINDS, FAST]), size=SIZES, zipped=st.booleans())
    def opens_and_sends(self, kind: str, size: int, zipped: bool) -> None:
        call = self.model.open(kind, gzip_requests=zipped)
        body = b"r" * size
        call.plan += framed(gzip.compress(body), 1) if zipped else framed(body)
        self.model.write(call, 10**9, end=True)
        self.model.deliver()

    @precondition(lambda self: self.model.peer.may_open())
    @rule(
        count=st.integers(0, 4),
        size=SIZES,
        timeout=st.sampled_from(["", "5S"]),
        replies=REPLY_SIZES,
    )
    def opens_a_stream(self, count: int, size: int, timeout: str, replies: int) -> None:
        call = self.model.open("bidi", timeout=timeout)
        call.plan += framed(b"r" * size) * count
        self.model.write(call, 10**9)
        self.model.deliver()
        for _ in range(count):
            if call.owned and not call.waits and not call.waits_room:
                self.model.take(call)
                self.model.send(call, b"s" * replies)

    @precondition(lambda self: self.model.peer.may_open() and len(self.model.calls) % 4 == 3)
    @rule(bad=st.sampled_from(sorted(BAD_REQUESTS)), end=st.booleans())
    def opens_badly(self, bad: str, end: bool) -> None:
        self.model.open("unary", bad=bad, end=end)

    @rule(
        number=PICK, size=SIZES, flag=st.sampled_from([0, 0, 0, 0, 1, 1, 2]), spoilt=st.booleans()
    )
    def plans_a_message(self, number: int, size: int, flag: int, spoilt: bool) -> None:
        call = self.pick(number, lambda call: not call.peer.half_closed and not call.peer.closed)
        if call is not None:
            body = (DECLINED if call.kind == FAST and size % 2 else b"m") * 2 + b"x" * size
            if flag == 1 and not (spoilt and size % 3):
                body = gzip.compress(body)
            call.plan += framed(body, flag)

    @rule(number=PICK, body=st.binary(min_size=1, max_size=7))
    def plans_nonsense(self, number: int, body: bytes) -> None:
        call = self.pick(number, lambda call: not call.peer.half_closed and not call.peer.closed)
        if call is not None and len(call.plan) < 100:
            call.plan += body

    @rule(
        number=PICK,
        count=CUTS,
        end=st.booleans(),
        padding=st.sampled_from([0, 0, 0, 1, 200]),
        at_once=MOSTLY,
    )
    def writes(self, number: int, count: int, end: bool, padding: int, at_once: bool) -> None:
        call = self.pick(number, lambda call: not call.peer.half_closed and not call.peer.closed)
        if call is not None:
            self.model.write(call, count, end, padding)
            if at_once:
                self.model.deliver()

    @rule(number=PICK)
    def hangs_up(self, number: int) -> None:
        call = self.pick(number, lambda call: not call.peer.closed)
        if call is not None:
            self.model.hang_up(call)

    @rule(number=PICK, count=st.sampled_from([1, 10, 500, 70_000]))
    def gives_a_stream_room(self, number: int, count: int) -> None:
        call = self.pick(number, lambda call: not call.peer.closed)
        if call is not None and call.peer.room + 2 * 10**7 + count < WINDOW_MAX:
            self.model.peer.give_room(call.peer, count)

    @rule(count=st.sampled_from([1, 100, 70_000, 10_000_000]))
    def gives_the_connection_room(self, count: int) -> None:
        if self.model.peer.room + 10**9 + count < WINDOW_MAX:
            self.model.peer.give_room(None, count)

    @rule(window=WINDOWS, table=st.sampled_from([None, 0, 64, 4_096, 10_000]))
    def changes_settings(self, window: int, table: int | None) -> None:
        changes = {SettingsFrame.INITIAL_WINDOW_SIZE: window}
        if table is not None:
            changes[SettingsFrame.HEADER_TABLE_SIZE] = table
        self.model.peer.settings(changes)

    @rule()
    def pings(self) -> None:
        self.model.peer.ping()

    # --- turns --------------------------------------------------------------------------------
    @rule(count=CUTS)
    def delivers(self, count: int) -> None:
        self.model.deliver(count)

    @rule()
    def turns(self) -> None:
        self.model.deliver()
        self.model.pull()

    @rule()
    def pulls(self) -> None:
        self.model.pull()

    @rule(seconds=st.sampled_from([0.0, 0.001, 1.0, 4.999, 40.0]))
    def time_passes(self, seconds: float) -> None:
        self.model.sweep(seconds)

    # --- handlers -----------------------------------------------------------------------------
    @rule(number=PICK)
    def takes(self, number: int) -> None:
        call = self.pick(number, lambda call: call.owned and not call.one_request)
        if call is not None and not call.waits:
            self.model.take(call)

    @rule(number=PICK, size=REPLY_SIZES, zipped=st.booleans())
    def sends(self, number: int, size: int, zipped: bool) -> None:
        call = self.pick(number, lambda call: call.owned and not call.one_reply)
        if call is not None and not call.waits_room:
            self.model.send(call, b"s" * size, zipped)

    @rule(number=PICK, size=REPLY_SIZES, zipped=st.booleans(), pairs=PAIRS)
    def replies(self, number: int, size: int, zipped: bool, pairs: list) -> None:
        call = self.pick(number, lambda call: call.owned and call.one_reply)
        if call is not None:
            self.model.reply(call, b"o" * size, zipped, pairs)

    @rule(
        number=PICK,
        code=st.sampled_from([0, 2, 5, 16]),
        message=st.sampled_from(["", "gone", "\t\r\n\u263a%"]),
        pairs=PAIRS,
    )
    def finishes(self, number: int, code: int, message: str, pairs: list) -> None:
        call = self.pick(number, lambda call: call.owned)
        if call is not None and (code or not call.one_reply):
            self.model.finish(call, code, message, pairs)

    @rule(number=PICK)
    def ends_late(self, number: int) -> None:
        call = self.pick(number, lambda call: call.owned and (call.closed or call.told))
        if call is not None:
            self.model.end(call)

    # --- what must be so ----------------------------------------------------------------------
    @invariant()
    def is_as_the_model_says(self) -> None:
        if hasattr(self, "model"):
            self.model.check()

    def teardown(self) -> None:
        if not hasattr(self, "model"):
            return
        if len(self.model.calls) % 3:
            self.model.settle()
        self.model.close()


SessionMachine.TestCase.settings = settings(
    max_examples=600 if LONG else 120,
    stateful_step_count=60 if LONG else 40,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestSession = SessionMachine.TestCase
