"""The grpc.aio transport."""

from feedcore_server.transports.grpcio import GrpcioTransport
from tests.conformance.suite import TransportSuite


class TestGrpcio(TransportSuite):
    """Differs in one case: grpc.aio may end the requests of a cancelled stream before it cancels
    the handler, so that a handler cannot tell the two apart.
    """

    HANG_UP_CANCELS_STREAMS = False
    transport = staticmethod(GrpcioTransport)
