"""Metrics over HTTP, for scrapers: bounded in connections, bytes and time.

    bound                      beyond it
    METRICS_CONNECTIONS_MAX    the oldest connection makes room for the newest
    METRICS_HEADER_BYTES_MAX   431, closed
    METRICS_REQUEST_S          closed: from the first byte of a request to its last, or to none
    METRICS_REPLY_S            closed: a reply that is not taken

One request a connection. Invariants: a connection is one task of `_open` and one descriptor, from
its accept to its end; `stop` awaits them all. Not for anything but GET and HEAD of metrics. Why not
the server that prometheus_client brings: it has a thread a connection, and no timeout.
"""

from __future__ import annotations

import asyncio
import gzip
import http.client
import io
import socket
from urllib.parse import parse_qs, urlsplit

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder, gzip_accepted

from feedcore.observe import logs
from feedcore_server import limits

_END = b"\r\n\r\n"


class MetricsServer:
    """Serves what a registry collects, on a socket that listens."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._server: asyncio.Server | None = None
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._waiting: dict[asyncio.Task[None], None] = {}  # none of it cancelled, oldest first

    @property
    def connections(self) -> int:
        """Those that are open."""
        return len(self._open)

    async def start(self, listener: socket.socket) -> None:
        """Serves from now on; the listener is ours."""
        self._server = await asyncio.start_server(
            self._accept, sock=listener, limit=limits.METRICS_HEADER_BYTES_MAX
        )

    async def stop(self) -> None:
        """Ends every connection."""
        if self._server is not None:
            self._server.close()
        for task in self._open:
            task.cancel()
        if self._open:
            await asyncio.wait(list(self._open))

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._waiting) >= limits.METRICS_CONNECTIONS_MAX:
            oldest = next(iter(self._waiting))
            del self._waiting[oldest]
            oldest.cancel()
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._open[task] = writer
        self._waiting[task] = None
        task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        """Also of a connection whose task was cancelled before it began."""
        self._waiting.pop(task, None)
        self._open.pop(task).transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(limits.METRICS_REQUEST_S):
                reply = await self._answer(reader)
            writer.write(reply)
            writer.write_eof()
            async with asyncio.timeout(limits.METRICS_REPLY_S):
                await writer.drain()
                await reader.read(1)  # the scraper has all of it when it closes
        except (TimeoutError, OSError, asyncio.IncompleteReadError):
            return  # of the scraper's own making: it has got a part, or nothing

    async def _answer(self, reader: asyncio.StreamReader) -> bytes:
        """Reads one request; the whole reply."""
        try:
            head = await reader.readuntil(_END)
        except asyncio.LimitOverrunError:
            return _reply("431 Request Header Fields Too Large", b"the request is too long\n")
        line, _, rest = head.partition(b"\r\n")
        parts = line.decode("latin-1").split(" ")
        if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
            return _reply("400 Bad Request", b"not a request of HTTP/1\n")
        method, target, _ = parts
        if method not in ("GET", "HEAD"):
            return _reply("405 Method Not Allowed", b"metrics are read with GET\n")
        try:
            headers = http.client.parse_headers(io.BytesIO(rest))
        except http.client.HTTPException as error:
            return _reply("400 Bad Request", f"{error}\n".encode())
        registry = self._registry
        names = parse_qs(urlsplit(target).query).get("name[]")
        encode, kind = choose_encoder(headers.get("accept", ""))
        try:
            body = encode(registry.restricted_registry(names) if names else registry)
        except Exception as error:  # of one scrape: the next may find what this one did not
            logs.get("exporter").error("metrics not read", exc_info=error)
            return _reply("500 Internal Server Error", b"the log says why\n")
        more = [f"Content-Type: {kind}"]
        if gzip_accepted(headers.get("accept-encoding", "")):
            body = gzip.compress(body, compresslevel=1)
            more.append("Content-Encoding: gzip")
        return _reply("200 OK", body, *more, body_too=method == "GET")


def _reply(status: str, body: bytes, *headers: str, body_too: bool = True) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + (body if body_too else b"")


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens for scrapers. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    listener = socket.socket(found[0], socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(found[4])
        listener.listen(limits.METRICS_CONNECTIONS_MAX)
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener
