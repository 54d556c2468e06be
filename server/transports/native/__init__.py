"""The native gRPC transport: compiled sessions on libnghttp2 (feedcore._native.http2.h2), asyncio
around them.

    bounds       every bound and timer
    library      is the libnghttp2 of this machine good enough
    lifecycle    keepalive, age, idleness, drain: a state table without I/O
    calls        handlers at work
    waiting      streams that wait: budgets, and calls without a task
    connection   an asyncio protocol: turns of reading and writing
    tls          context, client identity, reload
    transport    listeners and the worker they belong to
"""

from feedcore_server.transports.native.bounds import Bounds
from feedcore_server.transports.native.tls import Certificates, TlsFiles
from feedcore_server.transports.native.transport import NativeTransport

__all__ = ["Bounds", "Certificates", "NativeTransport", "TlsFiles"]
