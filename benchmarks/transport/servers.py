"""Who is measured: how each server is started on its core, waited for, verified and ended.

Invariants: a server is measured only after one real reply of every size was equal to what it should
be; what cannot be started is named with what would help, never replaced by something else; every
process that is started here is ended here, by its process id.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from benchmarks.transport import build, matrix
from benchmarks.transport.matrix import Row

START_TIMEOUT_S = 20.0  # a Python server on a busy machine is up in 2 s
END_TIMEOUT_S = 5.0
CALL_TIMEOUT_S = 10


@dataclass(frozen=True)
class Files:
    """What servers need on disk, in one temporary directory."""

    folder: Path
    cert: Path
    key: Path
    request: Path

    @classmethod
    def make(cls, folder: Path) -> Files:
        """Writes static replies, the request, and a certificate for 127.0.0.1."""
        files = cls(folder, folder / "cert.pem", folder / "key.pem", folder / "request")
        files.request.write_bytes(matrix.frame(matrix.REQUEST))
        for size in matrix.SIZES:
            static = folder / "www" / matrix.path(size).lstrip("/")
            static.parent.mkdir(parents=True, exist_ok=True)
            static.write_bytes(matrix.frame(matrix.reply(size)))
        if shutil.which("openssl"):
            command = ["openssl", "req", "-x509", "-newkey", "ec", "-nodes", "-days", "2"]
            command += ["-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", "/CN=localhost"]
            command += ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
            command += ["-keyout", str(files.key), "-out", str(files.cert)]
            subprocess.run(command, check=True, capture_output=True)
        return files


@dataclass(frozen=True)
class Server:
    """One contestant. `lacking`: "" if it can be started, else what would help."""

    name: str
    what: str
    ours: bool
    command: Callable[[int, Files], list[str]]
    lacking: Callable[[], str]
    version: Callable[[], str]
    verify: Callable[[int, Files], None]
    environment: dict[str, str] = field(default_factory=dict)
    tls: bool = False
    sizes: tuple[int, ...] | None = None  # only these; None: all
    rows: tuple[Row, ...] | None = None

    def covers(self, row: Row, size: int) -> bool:
        """It takes part in that cell."""
        return (self.sizes is None or size in self.sizes) and (
            self.rows is None or row in self.rows
        )


@dataclass
class Running:
    """A server that answers."""

    server: Server
    process: subprocess.Popen[bytes]
    port: int


# --- verification --------------------------------------------------------------------------------
def _verify_grpc(port: int, files: Files, tls: bool = False) -> None:
    """One call of each size through grpcio: status OK and the very bytes."""
    address = f"127.0.0.1:{port}"
    if tls:
        trusted = grpc.ssl_channel_credentials(files.cert.read_bytes())
        channel = grpc.secure_channel(address, trusted)
    else:
        channel = grpc.insecure_channel(address)
    with channel:
        for size in matrix.SIZES:
            call = channel.unary_unary(matrix.path(size))
            got = call(matrix.REQUEST, timeout=CALL_TIMEOUT_S, wait_for_ready=True)
            if got != matrix.reply(size):
                raise RuntimeError(f"{matrix.path(size)} answered {len(got)} other bytes")


def _verify_static(port: int, _files: Files) -> None:
    """One GET of each size: the very bytes."""
    for size in matrix.SIZES:
        url = f"http://127.0.0.1:{port}{matrix.path(size)}"
        command = ["nghttp", "--timeout", str(CALL_TIMEOUT_S), url]
        got = subprocess.run(command, check=True, capture_output=True).stdout
        if got != matrix.frame(matrix.reply(size)):
            raise RuntimeError(f"{url} answered {len(got)} other bytes")


# --- the contestants -----------------------------------------------------------------------------
def _ours(kind: str, handler: str, tls: bool = False) -> Callable[[int, Files], list[str]]:
    def command(port: int, files: Files) -> list[str]:
        line = [sys.executable, "-m", "benchmarks.transport.serve", "--port", str(port)]
        line += ["--transport", kind, "--handler", handler]
        return [*line, "--cert", str(files.cert), "--key", str(files.key)] if tls else line

    return command


def _there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # nor is the package it would be in
        return False


def _native_lacking(tls: bool = False) -> str:
    if not _there("feedcore_server.transports.native"):
        return "this tree has no native transport"
    if not _there("feedcore._native.http2.h2"):
        return "apt-get install libnghttp2-dev pkg-config, then make build"
    if tls and shutil.which("openssl") is None:
        return "no certificate: apt-get install openssl"
    return ""


def _ours_version() -> str:
    return f"Python {sys.version.split()[0]}"


def _nghttpd_lacking() -> str:
    lacking = {"nghttpd": "nghttp2-server", "nghttp": "nghttp2-client"}
    packages = [package for tool, package in lacking.items() if shutil.which(tool) is None]
    return f"apt-get install {' '.join(packages)}" if packages else ""


def _nghttpd(port: int, files: Files) -> list[str]:
    www = str(files.folder / "www")
    return ["nghttpd", "--no-tls", "-n1", "-a", "127.0.0.1", "-d", www, str(port)]


def _nghttpd_version() -> str:
    return subprocess.run(
        ["nghttpd", "--version"], check=True, capture_output=True, text=True
    ).stdout.strip()


def _aio(port: int, _files: Files) -> list[str]:
    return [sys.executable, "-m", "benchmarks.transport.grpc_aio", str(port)]


def _peer(peer: build.Peer, what: str, **environment: str) -> Server:
    how = f"python -m benchmarks.transport.build {peer.name}"
    return Server(
        peer.name,
        what,
        False,
        lambda port, _files: [str(peer.binary), str(port)],
        lambda: "" if peer.binary.exists() else how,
        peer.version,
        _verify_grpc,
        environment,
    )


def contestants() -> tuple[Server, ...]:
    """All servers, in the order of tables."""
    tonic, go, cpp = build.PEERS
    verify_tls = functools.partial(_verify_grpc, tls=True)
    tls_lacking = functools.partial(_native_lacking, tls=True)
    here, main = _ours_version, (matrix.MAIN_SIZE,)
    return (
        Server(
            "feedcore fast",
            "native transport, fast handler",
            True,
            _ours("native", "fast"),
            _native_lacking,
            here,
            _verify_grpc,
        ),
        Server(
            "feedcore async",
            "native transport, async handler through the dispatcher",
            True,
            _ours("native", "async"),
            _native_lacking,
            here,
            _verify_grpc,
        ),
        Server(
            "feedcore fast, TLS",
            "the same over TLS 1.3",
            True,
            _ours("native", "fast", tls=True),
            tls_lacking,
            here,
            verify_tls,
            tls=True,
            sizes=main,
            rows=(matrix.MIDDLE,),
        ),
        Server(
            "feedcore on grpc.aio",
            "grpc.aio transport, async handler through the dispatcher",
            True,
            _ours("grpcio", "async"),
            lambda: "",
            here,
            _verify_grpc,
            sizes=main,
        ),
        Server(
            "grpc.aio",
            "generic handler on raw bytes, uvloop",
            False,
            _aio,
            lambda: "",
            lambda: f"grpcio {grpc.__version__}",
            _verify_grpc,
        ),
        Server(
            "nghttpd",
            "C++, a static file of the same bytes, one worker; no gRPC",
            False,
            _nghttpd,
            _nghttpd_lacking,
            _nghttpd_version,
            _verify_static,
        ),
        _peer(tonic, "Rust, raw bytes codec, current-thread runtime"),
        _peer(go, "Go, raw bytes codec, GOMAXPROCS=1", GOMAXPROCS="1"),
        _peer(cpp, "C++, callback interface, raw bytes"),
    )


# --- processes -----------------------------------------------------------------------------------
@contextlib.contextmanager
def pinned(core: int) -> Iterator[None]:
    """Processes started inside run on that core, and so do all threads that they start."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def free_port() -> int:
    """A port of the loopback address that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_listening(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        if process.poll() is not None:
            raise RuntimeError(f"ended with {process.returncode} before it answered")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if time.monotonic() > deadline:
            raise RuntimeError(f"does not listen after {START_TIMEOUT_S:.0f} s")
        time.sleep(0.02)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextlib.contextmanager
def running(server: Server, files: Files, core: int) -> Iterator[Running]:
    """Starts it on the core, verifies it, ends it afterwards. RuntimeError has its last words."""
    port = free_port()
    log = files.folder / f"{server.name.replace(' ', '-')}.log"
    with log.open("wb") as output, pinned(core):
        process = subprocess.Popen(
            server.command(port, files),
            cwd=build.ROOT,
            env={**os.environ, **server.environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        try:
            _wait_until_listening(process, port)
            server.verify(port, files)
        except (RuntimeError, grpc.RpcError, subprocess.SubprocessError) as error:
            words = log.read_text(encoding="utf-8", errors="replace").strip()[-2_000:]
            raise RuntimeError(f"{server.name}: {error}\n{words}") from error
        yield Running(server, process, port)
    finally:
        _end(process)
