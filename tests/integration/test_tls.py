"""TLS on a real server: who is served, who is refused and how, certificates that change under
load."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from feedcore.clock import SystemClock
from feedcore_pb.v1 import feed_pb2, feed_pb2_grpc, publish_pb2
from feedcore_server.context import CallContext
from feedcore_server.registry import Kind, Method
from feedcore_server.transports.native import Certificates, NativeTransport, TlsFiles
from tests.support.certificates import Authority
from tests.support.rawframes import DATA, GOAWAY, PREFACE, SETTINGS, RawPeer, call, frame
from tests.support.roomy import NO_FIELDS
from tests.support.scrape import totals
from tests.support.server import ServerProcess
from tests.support.tls import Pair, channel, context, eager, handshake

CALL_TIMEOUT_S = 20.0
PATIENCE_S = 30.0
CALLERS = 4
PUBLISH = "/feedcore.v1.PublishService/Publish"
GET_FEED = "/feedcore.v1.FeedService/GetFeed"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def server(
    authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    flags = [*Pair(*authority.issue("server")).flags, "--metrics", "127.0.0.1:0"]
    with ServerProcess(tmp_path_factory.mktemp("tls") / "data", *flags) as running:
        yield running


def until(condition: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.05)


def get_feed(channel: grpc.Channel) -> feed_pb2.GetFeedResponse:
    stub = feed_pb2_grpc.FeedServiceStub(channel)
    return stub.GetFeed(feed_pb2.GetFeedRequest(user_id=1), timeout=CALL_TIMEOUT_S)


def rest_of(sock: socket.socket) -> bytes:
    """Everything up to a clean end: with TLS, that is the peer's close_notify."""
    found = b""
    while data := sock.recv(65_536):
        found += data
    return found


def raw_call(peer: RawPeer, stream_id: int) -> bytes:
    """The reply's message."""
    request = feed_pb2.GetFeedRequest(user_id=1).SerializeToString()
    peer.sock.sendall(call(GET_FEED, request, stream_id))
    while True:
        kind, _, stream, payload = peer.read()
        assert kind != GOAWAY
        if kind == DATA and stream == stream_id:
            return payload[5:]


# --- who is served -------------------------------------------------------------------------------
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_calls_are_served(
    server: ServerProcess, authority: Authority, version: ssl.TLSVersion
) -> None:
    with channel(server.address, authority) as secured:
        assert get_feed(secured).HasField("receipt")
    client = context(authority, "h2")
    client.minimum_version = client.maximum_version = version
    with handshake(server.address, client) as secured:
        assert secured.selected_alpn_protocol() == "h2"
        assert feed_pb2.GetFeedResponse.FromString(raw_call(RawPeer(secured), 1)).HasField(
            "receipt"
        )


def test_the_other_transport_serves_tls_too(authority: Authority, tmp_path: Path) -> None:
    pair = Pair(*authority.issue("server-of-grpcio"))
    flags = [*pair.flags, "--tls-client-ca", str(authority.certificate), "--transport", "grpcio"]
    with ServerProcess(tmp_path / "data", *flags) as running:
        with channel(running.address, authority, Pair(*authority.issue("caller"))) as secured:
            assert get_feed(secured).HasField("receipt")
        with channel(running.address, authority) as nameless, pytest.raises(grpc.RpcError):
            get_feed(nameless)


# --- who is refused ------------------------------------------------------------------------------
def test_older_versions_of_tls_are_refused(server: ServerProcess, authority: Authority) -> None:
    client = context(authority, "h2")
    client.set_ciphers("DEFAULT:@SECLEVEL=0")  # without it our own side would not offer TLS 1.1
    with pytest.warns(DeprecationWarning):
        client.minimum_version = ssl.TLSVersion.TLSv1
        client.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        with handshake(server.address, client):
            raise AssertionError("the handshake succeeded")


@pytest.mark.parametrize("alpn", [(), ("http/1.1",)], ids=["none", "http/1.1"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_without_h2_a_connection_is_closed_and_nothing_done(
    server: ServerProcess, authority: Authority, alpn: tuple[str, ...], version: ssl.TLSVersion
) -> None:
    name = "feedcore_connections_cut_total"
    cut, posts = totals(server)[name], published(server, authority)
    client = context(authority, *alpn)
    client.minimum_version = client.maximum_version = version
    request = publish_pb2.PublishRequest(author_id=1, body="not by ALPN")
    early = PREFACE + frame(SETTINGS) + call(PUBLISH, request.SerializeToString())
    with eager(server.address, client, early) as (secured, answers):
        assert secured.selected_alpn_protocol() is None
        assert list(answers) == [], "a clean end and no frame"
    until(lambda: totals(server)[name] == cut + 1, "no connection was cut off")
    assert published(server, authority) == posts


def published(server: ServerProcess, authority: Authority) -> int:
    with channel(server.address, authority) as secured:
        return len(get_feed(secured).items)


def test_plain_text_on_the_tls_port_is_closed(server: ServerProcess, authority: Authority) -> None:
    with grpc.insecure_channel(server.address) as plain, pytest.raises(grpc.RpcError) as caught:
        get_feed(plain)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    peer = RawPeer.connect(server.address)
    with peer.sock, contextlib.suppress(ConnectionResetError):
        got = rest_of(peer.sock)
        assert got[:1] in (b"", b"\x15"), "nothing but an alert of TLS"
    assert published(server, authority) >= 0, "others are served"


def test_tls_on_a_plain_port_is_closed(authority: Authority, tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "data") as running:
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            with handshake(running.address, context(authority, "h2")):
                raise AssertionError("the handshake succeeded")
        assert running.feed.GetFeed(feed_pb2.GetFeedRequest(user_id=1), timeout=CALL_TIMEOUT_S)


def test_a_peer_that_shakes_no_hands_does_not_hold_up_a_drain(
    authority: Authority, tmp_path: Path
) -> None:
    flags = [*Pair(*authority.issue("drained")).flags, "--set", "server.drain_grace_s=2"]
    with ServerProcess(tmp_path / "data", *flags) as running:
        host, _, port = running.address.rpartition(":")
        with (
            socket.create_connection((host, int(port)), timeout=CALL_TIMEOUT_S) as silent,
            handshake(running.address, context(authority, "h2")) as secured,
        ):
            peer = RawPeer(secured)
            raw_call(peer, 1)
            running.process.send_signal(signal.SIGTERM)
            peer.until(GOAWAY)
            silent.setblocking(False)
            with pytest.raises(BlockingIOError):  # it is still there when others hear of the drain
                silent.recv(1)
        assert running.process.wait(PATIENCE_S) == 0
        until(lambda: any('"drained"' in line for line in running.lines), "it was killed")


# --- callers with certificates -------------------------------------------------------------------
@pytest.fixture(scope="module")
def mutual(
    authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    flags = Pair(*authority.issue("server-of-mutual")).flags
    flags += ["--tls-client-ca", str(authority.certificate)]
    with ServerProcess(tmp_path_factory.mktemp("mutual") / "data", *flags) as running:
        yield running


def expired(authority: Authority) -> Pair:
    pair = Pair(*authority.issue("expired", days=0))
    command = ["openssl", "x509", "-checkend", "0", "-noout", "-in", str(pair.certificate)]
    until(
        lambda: subprocess.run(command, check=False, capture_output=True).returncode == 1,
        "it does not expire",
    )
    return pair


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("which", ["missing", "of another authority", "expired"])
def test_callers_without_a_good_certificate_are_refused(
    mutual: ServerProcess, authority: Authority, tmp_path: Path, which: str, version: ssl.TLSVersion
) -> None:
    pair = None
    if which == "expired":
        pair = expired(authority)
    elif which == "of another authority":
        pair = Pair(*Authority(tmp_path / "other", "other").issue("stranger"))
    with channel(mutual.address, authority, pair) as refused:
        with pytest.raises(grpc.RpcError) as caught:
            get_feed(refused)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    client = context(authority, "h2", pair=pair)
    client.minimum_version = client.maximum_version = version
    # With TLS 1.3 the client's handshake is over before the server has seen its certificate: then
    # the connection ends without a byte. uvloop sends no alert when a handshake fails.
    with pytest.raises((ssl.SSLError, ConnectionResetError, BrokenPipeError, EOFError)):
        with handshake(mutual.address, client) as secured:
            raw_call(RawPeer(secured), 1)


def test_callers_with_a_good_certificate_are_served(
    mutual: ServerProcess, authority: Authority
) -> None:
    with channel(mutual.address, authority, Pair(*authority.issue("good"))) as secured:
        assert get_feed(secured).HasField("receipt")


# --- certificates that change --------------------------------------------------------------------
@dataclass(slots=True)
class Ledger:
    """What callers saw while certificates changed."""

    calls: int = 0
    failures: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


def call_until(
    stop: threading.Event, address: str, authority: Authority, ledger: Ledger, each: int
) -> None:
    """Calls, `each` on a connection and then on a new one."""
    while not stop.is_set():
        with channel(address, authority) as secured:
            for _ in range(each):
                if stop.is_set():
                    return
                try:
                    get_feed(secured)
                except grpc.RpcError as error:
                    with ledger.lock:
                        ledger.failures.append(f"{error.code().name}: {error.details()}")
                with ledger.lock:
                    ledger.calls += 1


@contextlib.contextmanager
def callers(address: str, authority: Authority) -> Iterator[Ledger]:
    """Calls in the background: on connections that stay, and on new ones."""
    ledger, stop = Ledger(), threading.Event()
    threads = [
        threading.Thread(
            target=call_until, args=(stop, address, authority, ledger, 5 if number % 2 else 10**9)
        )
        for number in range(CALLERS)
    ]
    for thread in threads:
        thread.start()
    try:
        yield ledger
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def shown(address: str, authority: Authority) -> bytes:
    """The certificate that a new handshake sees."""
    with handshake(address, context(authority, "h2")) as secured:
        return secured.getpeercert(binary_form=True) or b""


def der(certificate: Path) -> bytes:
    return ssl.PEM_cert_to_DER_cert(certificate.read_text())


def everywhere(address: str, authority: Authority, certificate: Path, workers: int) -> bool:
    """Whether new handshakes see it on every worker: they take turns."""
    wanted = der(certificate)
    return all(shown(address, authority) == wanted for _ in range(2 * workers))


def put(source: Pair, target: Pair) -> None:
    """As certificate tools do: each file in one step, one after the other."""
    for old, new in zip(source, target, strict=True):
        fresh = new.with_suffix(".new")
        shutil.copy(old, fresh)
        os.replace(fresh, new)


def test_a_renewal_reaches_new_handshakes_and_no_call_fails(
    authority: Authority, tmp_path: Path
) -> None:
    live = Pair(tmp_path / "live.pem", tmp_path / "live.key")
    first, second = (Pair(*authority.issue(name)) for name in ("first", "second"))
    put(first, live)
    with ServerProcess(tmp_path / "data", *live.flags, workers=2) as running:
        assert everywhere(running.address, authority, first.certificate, 2)
        with (
            handshake(running.address, context(authority, "h2")) as secured,
            callers(running.address, authority) as ledger,
        ):
            old = RawPeer(secured)
            raw_call(old, 1)
            until(lambda: ledger.calls > 10 * CALLERS, "callers do not get going")
            put(second, live)
            until(
                lambda: everywhere(running.address, authority, second.certificate, 2),
                "the new certificate is not taken over",
            )
            before = ledger.calls
            until(lambda: ledger.calls > before + 10 * CALLERS, "callers have stopped")
            assert raw_call(old, 3), "a connection of before the renewal goes on"
        assert ledger.failures == []


def test_half_a_renewal_is_reported_and_changes_nothing(
    authority: Authority, tmp_path: Path
) -> None:
    live = Pair(tmp_path / "live.pem", tmp_path / "live.key")
    first, second = (Pair(*authority.issue(name)) for name in ("whole", "half"))
    put(first, live)
    with ServerProcess(tmp_path / "data", *live.flags) as running:

        def reports() -> list[str]:
            return [line for line in running.lines if "certificate not reloaded" in line]

        with callers(running.address, authority) as ledger:
            put(Pair(second.certificate, first.key), live)
            until(lambda: bool(reports()), "nothing is reported")
            assert str(live.certificate) in reports()[0] and str(live.key) in reports()[0]
            assert everywhere(running.address, authority, first.certificate, 1)
            live.certificate.write_text(second.certificate.read_text()[:200])
            until(lambda: len(reports()) > 1, "the next fault is not reported")
            assert everywhere(running.address, authority, first.certificate, 1)
            put(second, live)
            until(
                lambda: everywhere(running.address, authority, second.certificate, 1),
                "the whole renewal is not taken over",
            )
        assert ledger.failures == [] and ledger.calls
        assert len(reports()) == 2, "once for each state of the files"


async def test_long_requests_come_whole_on_the_plain_loop(authority: Authority) -> None:
    """asyncio reads several records of TLS into slices of one buffer: nothing of them is lost."""
    got: list[bytes] = []

    async def handle(_call: CallContext, request: bytes) -> bytes:
        got.append(request)
        return b""

    method = Method("/test.Sink/Take", "Take", Kind.UNARY, NO_FIELDS, None)
    served: Any = SimpleNamespace(
        registry=SimpleNamespace(methods=lambda: [method]), chain=lambda _method: handle
    )
    certificates = Certificates(TlsFiles(*authority.issue("plain")))
    transport = NativeTransport(served, SystemClock(), certificates)
    port = await transport.start("127.0.0.1", 0)
    sent = [os.urandom(200_000) for _ in range(5)]

    def calls() -> None:
        with channel(f"127.0.0.1:{port}", authority) as secure:
            take = secure.unary_unary("/test.Sink/Take")
            for one in sent:
                take(one, timeout=CALL_TIMEOUT_S)

    try:
        await asyncio.to_thread(calls)
    finally:
        await transport.stop(0)
    assert got == sent
