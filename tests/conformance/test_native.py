"""The native transport."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from feedcore.clock import SystemClock
from feedcore_server.dispatch import Dispatcher
from feedcore_server.transports import Transport
from feedcore_server.transports.native import Certificates, NativeTransport, TlsFiles
from feedcore_server.transports.native.bounds import Bounds
from tests.conformance.connections import DrainCases, FlowCases, KeepaliveCases
from tests.conformance.harness import Harness, Served
from tests.conformance.messages import MessageCases
from tests.conformance.replies import EndingCases, ReplyCases
from tests.conformance.requests import RequestCases
from tests.conformance.standard import HealthCases, ReflectionCases
from tests.conformance.suite import TransportSuite
from tests.conformance.tls import TlsCases, UnixCases


class TestNative(TransportSuite):
    """Differs in nothing."""

    transport = staticmethod(NativeTransport)


class Native(Harness):
    """Makes the transport for the cases."""

    NAME = "native"

    def transport(self, dispatcher: Dispatcher, bounds: dict[str, Any]) -> Transport:
        return NativeTransport(dispatcher, SystemClock(), bounds=Bounds(**bounds))


class TestRequests(Native, RequestCases):
    pass


class TestFastRequests(Native, RequestCases):
    FAST = True


class TestMessages(Native, MessageCases):
    pass


class TestFastMessages(Native, MessageCases):
    FAST = True


class TestReplies(Native, ReplyCases):
    pass


class TestFastReplies(Native, ReplyCases):
    FAST = True


class TestEndings(Native, EndingCases):
    pass


class TestDrain(Native, DrainCases):
    pass


class TestKeepalive(Native, KeepaliveCases):
    pass


class TestFlow(Native, FlowCases):
    pass


class TestHealth(Native, HealthCases):
    pass


class TestReflection(Native, ReflectionCases):
    pass


class TestTls(Native, TlsCases):
    def transport(self, dispatcher: Dispatcher, bounds: dict[str, Any]) -> Transport:
        assert self.files is not None
        certificates = Certificates(TlsFiles(*self.files))
        return NativeTransport(dispatcher, SystemClock(), certificates, Bounds(**bounds))


class TestUnix(Native, UnixCases):
    async def start_unix(self, served: Served, path: Path) -> None:
        assert isinstance(served.transport, NativeTransport)
        await served.transport.start_unix(path)
