"""TLS of the native transport: 1.2 or newer, ALPN h2, client certificates, reload in place.

A certificate that is renewed on disk is taken over by handshakes that come after: `Certificates`
looks at the files once in RELOAD_CHECK_S and loads a pair into the live context when both fit
together. Connections that are open keep what they agreed on. A pair that does not load is reported
and changes nothing. Authorities for client certificates are read at the start only: a rolling
restart changes them.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from feedcore.errors import ConfigError
from feedcore.observe import logs
from feedcore.resilience import tasks

RELOAD_CHECK_S = 1.0  # three stat calls a second are nothing, and a renewal is in force at once
# Forward secrecy and authenticated encryption only: what HTTP/2 allows of TLS 1.2 (RFC 9113 9.2.2).
CIPHERS_TLS12 = "ECDHE+AESGCM:ECDHE+CHACHA20"


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files; `client_ca` asks every caller for a certificate of one of these authorities."""

    certificate: Path
    key: Path
    client_ca: Path | None = None


class Certificates:
    """A server's TLS context and the files behind it."""

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self.context = self._fresh()
        self._seen = self._stamp()
        self._reported: tuple[tuple[int, int], ...] = ()  # files that did not load, as they were
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Watches the files until `stop`."""
        self._task = tasks.start(self._watch(), "certificates")

    async def stop(self) -> None:
        """Ends the watch."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    def _fresh(self) -> ssl.SSLContext:
        """A new context. Raises ConfigError naming the file at fault."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(CIPHERS_TLS12)
        context.set_alpn_protocols(["h2"])
        context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
        _load_pair(context, self._files)
        if self._files.client_ca is not None:
            try:
                context.load_verify_locations(self._files.client_ca)
            except (OSError, ssl.SSLError) as error:
                where = f"server.tls_client_ca {self._files.client_ca}"
                raise ConfigError(f"{where}: {error}") from error
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def _stamp(self) -> tuple[tuple[int, int], ...]:
        """What changes when the files do; () while one is missing."""
        try:
            stats = [path.stat() for path in (self._files.certificate, self._files.key)]
        except OSError:
            return ()
        return tuple((stat.st_mtime_ns, stat.st_ino) for stat in stats)

    def reload_if_changed(self) -> bool:
        """Takes over a renewed pair; whether it did."""
        stamp = self._stamp()
        if not stamp or stamp == self._seen:
            return False
        try:
            # Into a context of its own first: half a renewal must not spoil the live one.
            _load_pair(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), self._files)
            _load_pair(self.context, self._files)
        except ConfigError as error:
            if stamp != self._reported:
                self._reported = stamp
                logs.get("tls").error("certificate not reloaded", detail=str(error))
            return False
        self._seen, self._reported = stamp, ()
        logs.get("tls").info("certificate reloaded", file=str(self._files.certificate))
        return True

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(RELOAD_CHECK_S)
            self.reload_if_changed()


def _load_pair(context: ssl.SSLContext, files: TlsFiles) -> None:
    try:
        context.load_cert_chain(files.certificate, files.key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"server.tls_certificate {files.certificate}, server.tls_key {files.key}: {error};"
            " must be a PEM chain and its key"
        ) from error


def identity_of(tls: Any) -> str:
    """Whom the caller's certificate names: its first URI, else DNS name, else common name; "" if
    there is none."""
    certificate = tls.getpeercert()
    if not certificate:
        return ""
    names = certificate.get("subjectAltName", ())
    for wanted in ("URI", "DNS"):
        for kind, value in names:
            if kind == wanted:
                return str(value)
    for part in certificate.get("subject", ()):
        for key, value in part:
            if key == "commonName":
                return str(value)
    return ""
