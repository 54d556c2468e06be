"""The grpc.aio transport."""

from feedcore_server.transports.grpcio import GrpcioTransport
from tests.conformance.suite import TransportSuite


class TestGrpcio(TransportSuite):
    """Nothing differs from the suite."""

    transport = staticmethod(GrpcioTransport)
