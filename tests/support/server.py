"""A real feedcore server as a process group, with stubs to call it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import grpc

from feedcore_pb.collaborators.v1 import content_pb2_grpc, graph_pb2_grpc
from feedcore_pb.v1 import admin_pb2_grpc, feed_pb2_grpc, publish_pb2_grpc

FEEDCORE = Path(sys.executable).with_name("feedcore")
READY_WITHIN_S = 60.0
STOP_WITHIN_S = 30.0
# A node that only fans out has no address.
_READY = re.compile(r"feedcore ready(?:, fan-out only| on (?!unix:)(\S+))")


class ServerProcess:
    """`feedcore serve` on a free port; a context manager that ends the whole process group. With
    `wait` False it is only started: `wait_ready` makes the stubs. `open_files` is its limit, soft
    and hard; `shell` is what starts it instead, with the command as its arguments.
    """

    def __init__(
        self,
        data_dir: Path,
        *flags: str,
        workers: int = 1,
        env: dict[str, str] | None = None,
        command: str = "serve",
        wait: bool = True,
        open_files: int | None = None,
        shell: str = "",
    ) -> None:
        self.data_dir = data_dir
        self.transport = "grpcio" if "grpcio" in flags else "native"
        arguments = [str(FEEDCORE), command, "--data-dir", str(data_dir)]
        arguments += ["--listen", "127.0.0.1:0", "--workers", str(workers), *flags]
        if open_files is not None:
            shell = f'ulimit -n {open_files}; exec "$@"'
        if shell:
            arguments = ["sh", "-c", shell, "sh", *arguments]
        self.process = subprocess.Popen(
            arguments,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env={**os.environ, **(env or {})},
        )
        self.lines: list[str] = []
        self._ready = threading.Event()
        self.address = ""
        self.is_ready = False
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        if wait:
            self.wait_ready()

    def wait_ready(self, within_s: float = READY_WITHIN_S) -> None:
        """Until it serves; stubs of a node that takes calls are there then."""
        if not self._ready.wait(within_s) or not self.is_ready:
            self.kill()
            raise RuntimeError("the server did not get ready:\n" + "".join(self.lines[-40:]))
        if not self.address:
            return
        self.channel = grpc.insecure_channel(self.address)
        self.feed = feed_pb2_grpc.FeedServiceStub(self.channel)
        self.publish = publish_pb2_grpc.PublishServiceStub(self.channel)
        self.admin = admin_pb2_grpc.AdminServiceStub(self.channel)
        self.graph = graph_pb2_grpc.GraphServiceStub(self.channel)
        self.content = content_pb2_grpc.ContentServiceStub(self.channel)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            found = _READY.search(line)
            if found:
                self.address = found.group(1) or ""
                self.is_ready = True
                self._ready.set()
        self._ready.set()

    def signal(self, number: signal.Signals) -> None:
        """To every process of the group: SIGSTOP makes a server that takes calls and is silent."""
        os.killpg(self.process.pid, number)

    def kill(self) -> None:
        """SIGKILL to every process of the group, at once: nobody gets to clean up."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        if hasattr(self, "channel"):
            self.channel.close()

    def stop(self) -> int:
        """SIGTERM and wait for the drain; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(STOP_WITHIN_S)
        finally:
            self.kill()
        return code

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(self, *_exception: object) -> None:
        if self.process.poll() is None:
            self.stop()
        else:
            self.kill()


def feedcore(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Runs the command line to its end."""
    return subprocess.run(
        [str(FEEDCORE), *arguments], check=check, capture_output=True, text=True, timeout=600
    )
