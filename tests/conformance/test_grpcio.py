"""The grpc.aio transport."""

from feedcore.clock import SystemClock
from feedcore_server.dispatch import Dispatcher
from feedcore_server.transports import Transport
from feedcore_server.transports.grpcio import GrpcioTransport
from tests.conformance.harness import Harness
from tests.conformance.messages import MessageCases
from tests.conformance.replies import EndingCases, ReplyCases
from tests.conformance.requests import RequestCases
from tests.conformance.suite import TransportSuite


class TestGrpcio(TransportSuite):
    """Differs in one case: grpc.aio may end the requests of a cancelled stream before it cancels
    the handler, so that a handler cannot tell the two apart.
    """

    HANG_UP_CANCELS_STREAMS = False
    transport = staticmethod(GrpcioTransport)


class Grpcio(Harness):
    """Makes the transport for the cases."""

    NAME = "grpcio"

    def transport(self, dispatcher: Dispatcher, bounds: dict[str, float]) -> Transport:
        return GrpcioTransport(dispatcher, SystemClock())


class TestRequests(Grpcio, RequestCases):
    pass


class TestMessages(Grpcio, MessageCases):
    pass


class TestReplies(Grpcio, ReplyCases):
    pass


class TestEndings(Grpcio, EndingCases):
    pass
