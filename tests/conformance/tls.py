"""Cases of TLS and of unix sockets, for transports that have them."""

from __future__ import annotations

import asyncio
import shutil
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.conformance.harness import PATIENCE_S, UNARY, Agree, Harness, Served, alive, until
from tests.support.certificates import Authority
from tests.support.rawclient import Closed, RawClient, request_headers
from tests.support.testservice import pb

OK = "1 message, OK"
CLOSED_AT_ONCE = ("closed after the handshake", "refused")
RELOAD_PATIENCE_S = 20.0


def client_context(
    authority: Authority,
    *,
    alpn: tuple[str, ...] = ("h2",),
    version: ssl.TLSVersion | None = None,
    certificate: tuple[Path, Path] | None = None,
) -> ssl.SSLContext:
    """What a client trusts, offers and shows."""
    context = ssl.create_default_context(cafile=authority.certificate)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    if version is not None:
        # Old versions need old ciphers: the client must be able to do what the server refuses.
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = context.maximum_version = version
    if certificate is not None:
        context.load_cert_chain(*certificate)
    return context


class TlsCases(Harness):
    """Behaviour 24. A subclass makes the transport with `files`: (certificate, key, authority of
    clients or None)."""

    files: tuple[Path, Path, Path | None] | None = None

    @pytest.fixture
    def authority(self, tmp_path: Path) -> Authority:
        """Signs the server's certificate, which `files` has from now on."""
        authority = Authority(tmp_path / "ca")
        self.files = (*authority.issue("server"), None)
        return authority

    def ask_clients(self, authority: Authority) -> None:
        """Clients must show a certificate of this authority."""
        assert self.files is not None
        self.files = (*self.files[:2], authority.certificate)

    @asynccontextmanager
    async def raw(self, served: Served, context: ssl.SSLContext) -> AsyncIterator[RawClient]:
        """A raw connection in TLS, after both handshakes."""
        async with await RawClient.connect(served.port, context) as client:
            await client.handshake()
            yield client

    async def welcome(self, served: Served, context: ssl.SSLContext) -> str:
        """Whether such a client is served, in words."""
        try:
            async with await RawClient.connect(served.port, context) as client:
                try:
                    await client.handshake()
                except Closed:
                    return "closed after the handshake" if client.closed == "eof" else "refused"
                return await self.outcome(client, await client.call(UNARY, b""))
        except (ssl.SSLError, ConnectionError):
            return "refused"

    @pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
    async def test_24_versions(self, agree: Agree, authority: Authority, version: str) -> None:
        context = client_context(authority, version=ssl.TLSVersion[version])
        async with self.serving() as served:
            agree(await self.welcome(served, context), OK)

    @pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1:DeprecationWarning")
    @pytest.mark.parametrize("version", ["TLSv1", "TLSv1_1"])
    async def test_24_old_versions(self, agree: Agree, authority: Authority, version: str) -> None:
        context = client_context(authority, version=ssl.TLSVersion[version])
        async with self.serving() as served:
            agree(await self.welcome(served, context), "refused")

    @pytest.mark.parametrize("alpn", ["", "http/1.1", "h2c"])
    async def test_24_no_h2_in_alpn(self, agree: Agree, authority: Authority, alpn: str) -> None:
        context = client_context(authority, alpn=(alpn,) if alpn else ())
        async with self.serving() as served:
            words = (await self.welcome(served, context)).replace(*CLOSED_AT_ONCE)
            well = await self.welcome(served, client_context(authority))
            agree((words, well), ("refused", OK))

    async def test_24_h2_among_others(self, agree: Agree, authority: Authority) -> None:
        context = client_context(authority, alpn=("http/1.1", "spdy/3", "h2"))
        async with self.serving() as served:
            agree(await self.welcome(served, context), OK)

    async def test_24_no_tls_where_tls_is_due(self, agree: Agree, authority: Authority) -> None:
        async with self.serving() as served, await RawClient.connect(served.port) as client:
            with pytest.raises(Closed):
                await client.handshake()
            agree(await self.welcome(served, client_context(authority)), OK)

    @pytest.mark.parametrize("shown", ["good", "none", "expired", "of a stranger"])
    async def test_24_client_certificates(
        self, agree: Agree, authority: Authority, tmp_path: Path, shown: str
    ) -> None:
        self.ask_clients(authority)
        certificate = None
        if shown == "of a stranger":
            certificate = Authority(tmp_path / "other", "stranger").issue("client")
        elif shown != "none":
            certificate = authority.issue("client", days=0 if shown == "expired" else 2)
        async with self.serving() as served:
            context = client_context(authority, certificate=certificate)
            # In TLS 1.3 the client's handshake is over before the server has seen its certificate.
            words = (await self.welcome(served, context)).replace(*CLOSED_AT_ONCE)
            identities = {call.identity for call in served.recorder.calls}
            demanded = (OK, {"client"}) if shown == "good" else ("refused", set())
            agree((words, identities), demanded)

    async def test_24_no_identity_without_a_certificate(
        self, agree: Agree, authority: Authority
    ) -> None:
        async with self.serving() as served:
            await self.welcome(served, client_context(authority))
            agree([call.identity for call in served.recorder.calls], [""])

    async def test_24_certificates_are_renewed_under_load(
        self, agree: Agree, authority: Authority
    ) -> None:
        assert self.files is not None
        context = client_context(authority)
        async with self.serving() as served, self.raw(served, context) as old:
            before = await serial_of(served, context)
            renewed = authority.issue("renewed")
            shutil.copy(renewed[1], self.files[1])
            shutil.copy(renewed[0], self.files[0])
            words, after = set(), before
            async with asyncio.timeout(RELOAD_PATIENCE_S):
                while after == before:
                    words.add(await self.welcome(served, context))
                    words.add(await self.outcome(old, await old.call(UNARY, b"")))
                    after = await serial_of(served, context)
            agree(words, {OK})

    async def test_24_half_a_renewal_changes_nothing(
        self, agree: Agree, authority: Authority
    ) -> None:
        assert self.files is not None
        context = client_context(authority)
        async with self.serving() as served:
            before = await serial_of(served, context)
            shutil.copy(authority.issue("renewed")[0], self.files[0])
            loop = asyncio.get_running_loop()
            end_s, serials = loop.time() + 2.5, set()  # two looks at the files, at least
            while loop.time() < end_s:
                serials.add(await serial_of(served, context))
                await asyncio.sleep(0.1)
            agree(serials, {before})

    @pytest.mark.parametrize("how", ["close", "reset of TCP"])
    async def test_24_hang_up(self, agree: Agree, authority: Authority, how: str) -> None:
        async with self.serving() as served:
            async with self.raw(served, client_context(authority)) as client:
                served.recorder.hold = asyncio.Event()
                await client.call(UNARY, b"")
                await until(lambda: served.recorder.started == 1)
                await client.close(reset=how == "reset of TCP")
            agree(await self.ends(served), "1 cancelled")

    async def test_24_long_replies_and_small_packets(
        self, agree: Agree, authority: Authority
    ) -> None:
        async with self.serving() as served:
            async with self.raw(served, client_context(authority)) as client:
                await client.widen(0, 1 << 24)
                stream = client.open()
                frames = client.header_frames(stream, request_headers(UNARY))
                request = pb.SimpleRequest(response_size=3_000_000).SerializeToString()
                await client.send(*frames, each=1)
                await client.widen(stream, 1 << 24)
                prefix = len(request).to_bytes(5, "big")
                await client.send_data(stream, prefix + request, end=True)
                state = await client.finished(stream)
                sizes = [len(body) > 3_000_000 for _, body in state.messages]
                agree((sizes, await alive(client)), ([True], True))

    async def test_24_drain(self, agree: Agree, authority: Authority) -> None:
        async with self.serving() as served:
            async with self.raw(served, client_context(authority)) as client:
                served.recorder.hold = asyncio.Event()
                stream = await client.call(UNARY, b"")
                await until(lambda: served.recorder.started == 1)
                stop = asyncio.create_task(served.transport.stop(PATIENCE_S))
                await client.goaway()
                served.recorder.hold.set()
                words = await self.outcome_only(client, stream)
                closed = await client.hung_up()
                await asyncio.wait_for(stop, PATIENCE_S)
                agree((words, closed), (OK, "eof"))


async def serial_of(served: Served, context: ssl.SSLContext) -> str:
    """The serial number of the certificate that a new connection gets."""
    async with await RawClient.connect(served.port, context) as client:
        certificate = client.transport_info("ssl_object").getpeercert()
        return str(certificate["serialNumber"])


class UnixCases(Harness):
    """Unix sockets, which carry the same frames."""

    async def test_24_unix_socket(self, agree: Agree, tmp_path: Path) -> None:
        async with self.serving() as served:
            path = tmp_path / "socket"
            await self.start_unix(served, path)
            async with await RawClient.connect(str(path)) as client:
                await client.handshake()
                words = await self.outcome(client, await client.call(UNARY, b""))
            agree((words, served.recorder.calls[0].peer), (OK, "unix:"))

    async def start_unix(self, served: Served, path: Path) -> None:
        """Listens on a unix socket, too."""
        raise AssertionError("a subclass knows how")
