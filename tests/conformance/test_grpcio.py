"""The grpc.aio transport."""

from __future__ import annotations

from unittest import mock

from feedcore.clock import SystemClock
from feedcore_server import limits
from feedcore_server.dispatch import Dispatcher
from feedcore_server.transports import Transport, grpcio
from feedcore_server.transports.grpcio import GrpcioTransport
from tests.conformance.connections import DrainCases, FlowCases, KeepaliveCases
from tests.conformance.harness import Harness
from tests.conformance.messages import MessageCases
from tests.conformance.replies import EndingCases, ReplyCases
from tests.conformance.requests import RequestCases
from tests.conformance.standard import HealthCases, ReflectionCases
from tests.conformance.suite import TransportSuite

# Bounds of the native transport -> settings of grpc.aio, in milliseconds.
SETTINGS = {
    "keepalive_s": "grpc.keepalive_time_ms",
    "keepalive_timeout_s": "grpc.keepalive_timeout_ms",
    "age_s": "grpc.max_connection_age_ms",
    "age_grace_s": "grpc.max_connection_age_grace_ms",
    "idle_s": "grpc.max_connection_idle_ms",
    "ping_interval_s": "grpc.http2.min_ping_interval_without_data_ms",
}


class TestGrpcio(TransportSuite):
    """Differs in one case: grpc.aio may end the requests of a cancelled stream before it cancels
    the handler, so that a handler cannot tell the two apart.
    """

    HANG_UP_CANCELS_STREAMS = False
    transport = staticmethod(GrpcioTransport)


class Grpcio(Harness):
    """Makes the transport for the cases. Bounds that it has no setting for stay as they are."""

    NAME = "grpcio"

    def transport(self, dispatcher: Dispatcher, bounds: dict[str, float]) -> Transport:
        changed = {
            SETTINGS[name]: int(seconds * 1_000)
            for name, seconds in bounds.items()
            if name in SETTINGS
        }
        options = tuple((dict(grpcio.OPTIONS) | changed).items())
        calls_max = bounds.get("calls_max", limits.CALLS_PER_WORKER_MAX)
        with (
            mock.patch.object(grpcio, "OPTIONS", options),
            mock.patch.object(limits, "CALLS_PER_WORKER_MAX", calls_max),
        ):
            return GrpcioTransport(dispatcher, SystemClock())


class TestRequests(Grpcio, RequestCases):
    pass


class TestMessages(Grpcio, MessageCases):
    pass


class TestReplies(Grpcio, ReplyCases):
    pass


class TestEndings(Grpcio, EndingCases):
    pass


class TestDrain(Grpcio, DrainCases):
    pass


class TestKeepalive(Grpcio, KeepaliveCases):
    pass


class TestFlow(Grpcio, FlowCases):
    pass


class TestHealth(Grpcio, HealthCases):
    pass


class TestReflection(Grpcio, ReflectionCases):
    pass
