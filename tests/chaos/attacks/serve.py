"""The server under attack: the test service on the native transport, with bounds of the test's
choice.

    python -m tests.chaos.attacks.serve '{"opening_s": 1.0}' [CERTIFICATE KEY]

prints `ready PORT` and serves until the end of its standard input.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import uvloop

from feedcore.clock import SystemClock
from feedcore.observe import logs
from feedcore_server.transports.native import Certificates, NativeTransport, TlsFiles
from feedcore_server.transports.native.bounds import Bounds
from tests.support.testserver import interop_services


async def serve(bounds: dict[str, float], files: list[str]) -> None:
    """Serves until the input ends."""
    logs.configure("warning", "console")
    certificates = Certificates(TlsFiles(*map(Path, files))) if files else None
    async with interop_services(False) as dispatcher:
        transport = NativeTransport(dispatcher, SystemClock(), certificates, Bounds(**bounds))
        port = await transport.start("127.0.0.1", 0)
        print(f"ready {port}", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        await transport.stop(1.0)


if __name__ == "__main__":
    uvloop.run(serve(json.loads(sys.argv[1]), sys.argv[2:]))
