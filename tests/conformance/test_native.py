"""The native transport."""

from feedcore_server.transports.native import NativeTransport
from tests.conformance.suite import TransportSuite


class TestNative(TransportSuite):
    """No differences."""

    transport = staticmethod(NativeTransport)
