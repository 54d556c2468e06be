"""One client process of the soak test: `python -m tests.support.soak_client ADDRESS SECONDS SEED
[AUTHORITY]`; with the file of an authority it speaks TLS.

Each habit is a thread that repeats one way of using, or of leaving, a server: whole calls, streams,
deadlines that pass, cancels, connections that end in the middle. Prints a JSON object at the end:
outcome -> count. An outcome that no habit may have ends the process with code 1.
"""

from __future__ import annotations

import json
import random
import socket
import ssl
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from feedcore_pb.v1 import (
    admin_pb2,
    admin_pb2_grpc,
    feed_pb2,
    feed_pb2_grpc,
    publish_pb2,
    publish_pb2_grpc,
)
from tests.support.rawframes import DATA, HEADERS, RawPeer, call, frame, request_headers

USERS = 50
CALL_TIMEOUT_S = 60.0  # above any pause of a shared machine: a call that takes longer is a fault
CALLS_PER_CHANNEL = 200  # then a new connection
NEW_POST_SHARE = 0.05  # of the publishes; the others repeat one, so that the store stays small
REPEATED_KEYS = 200
PAUSE_S = 0.02  # of habits that would only burn the machine without it
OPTIONS = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
GET_FEED = "/feedcore.v1.FeedService/GetFeed"
LEFT = {"CANCELLED", "DEADLINE_EXCEEDED"}  # what a habit that leaves early may see


class Client:
    """What all habits of a process share."""

    def __init__(self, address: str, seed: int, authority: Path | None) -> None:
        self.address = address
        self.seed = seed
        self._authority = authority
        self.stop = threading.Event()
        self.tally: Counter[str] = Counter()
        self.faults: list[str] = []
        self._lock = threading.Lock()

    def count(self, outcome: str) -> None:
        with self._lock:
            self.tally[outcome] += 1

    def expect(self, habit: str, allowed: set[str], do: Callable[[], Any]) -> None:
        """Runs one call; its status must be OK or allowed."""
        try:
            do()
            outcome = "OK"
        except grpc.RpcError as error:
            outcome = error.code().name
            if outcome not in allowed:
                self.faults.append(f"{habit}: {outcome}: {error.details()}")
                self.stop.set()
        self.count(f"{habit} {outcome}")

    def channel(self) -> grpc.Channel:
        """A connection of its own."""
        if self._authority is None:
            return grpc.insecure_channel(self.address, options=OPTIONS)
        credentials = grpc.ssl_channel_credentials(self._authority.read_bytes())
        return grpc.secure_channel(self.address, credentials, options=OPTIONS)

    def socket(self) -> socket.socket:
        """The same without a library on top. With TLS, the handshake is done."""
        host, _, port = self.address.rpartition(":")
        plain = socket.create_connection((host, int(port)), timeout=CALL_TIMEOUT_S)
        if self._authority is None:
            return plain
        context = ssl.create_default_context(cafile=self._authority)
        context.set_alpn_protocols(["h2"])
        return context.wrap_socket(plain, server_hostname=host)


def whole_calls(client: Client, draw: random.Random) -> None:
    """GetFeed, and a Publish now and then, to their end."""
    with client.channel() as channel:
        feed = feed_pb2_grpc.FeedServiceStub(channel)
        publish = publish_pb2_grpc.PublishServiceStub(channel)
        for _ in range(CALLS_PER_CHANNEL):
            if client.stop.is_set():
                return
            user = draw.randint(1, USERS)
            if draw.random() < 0.1:
                new = draw.random() < NEW_POST_SHARE
                number = draw.getrandbits(60) if new else draw.randrange(REPEATED_KEYS)
                request = publish_pb2.PublishRequest(
                    author_id=number % USERS + 1, body="hello", idempotency_key=f"soak-{number}"
                )
                client.expect(
                    "publish", set(), lambda r=request: publish.Publish(r, timeout=CALL_TIMEOUT_S)
                )
            else:
                request = feed_pb2.GetFeedRequest(user_id=user)
                client.expect(
                    "feed", set(), lambda r=request: feed.GetFeed(r, timeout=CALL_TIMEOUT_S)
                )


def streams(client: Client, draw: random.Random) -> None:
    """Import to its end; Watch, left after its first answer."""
    with client.channel() as channel:
        admin = admin_pb2_grpc.AdminServiceStub(channel)
        health = health_pb2_grpc.HealthStub(channel)
        for _ in range(CALLS_PER_CHANNEL // 10):
            if client.stop.wait(PAUSE_S):
                return
            batches = [import_batch(draw, number) for number in range(5)]

            def load(batches: list[admin_pb2.ImportBatch] = batches) -> None:
                receipts = list(admin.Import(iter(batches), timeout=CALL_TIMEOUT_S))
                assert len(receipts) == len(batches)

            client.expect("import", set(), load)

            def watch() -> None:
                stream = health.Watch(health_pb2.HealthCheckRequest(), timeout=CALL_TIMEOUT_S)
                assert next(stream).status == health_pb2.HealthCheckResponse.SERVING
                stream.cancel()

            client.expect("watch", LEFT, watch)


def import_batch(draw: random.Random, number: int) -> admin_pb2.ImportBatch:
    """Follows that are there after the first minutes: loading them again changes nothing."""
    batch = admin_pb2.ImportBatch(batch_id=number)
    for _ in range(10):
        source, target = draw.sample(range(1, USERS + 1), 2)
        batch.follows.add(follower_id=source, followee_id=target)
    return batch


def deadlines(client: Client, draw: random.Random) -> None:
    """Deadlines that pass before, while and after the server is at work."""
    with client.channel() as channel:
        feed = feed_pb2_grpc.FeedServiceStub(channel)
        admin = admin_pb2_grpc.AdminServiceStub(channel)
        health = health_pb2_grpc.HealthStub(channel)
        for _ in range(CALLS_PER_CHANNEL // 2):
            if client.stop.wait(PAUSE_S / 4):
                return
            soon_s = draw.choice((0.0005, 0.001, 0.002, 0.005))
            request = feed_pb2.GetFeedRequest(user_id=draw.randint(1, USERS))
            client.expect("late feed", LEFT, lambda r=request, s=soon_s: feed.GetFeed(r, timeout=s))
            if draw.random() < 0.1:
                watched = health_pb2.HealthCheckRequest()
                client.expect(
                    "late watch", LEFT, lambda r=watched: list(health.Watch(r, timeout=0.02))
                )
                never = threading.Event()

                def requests(never: threading.Event = never) -> Iterator[admin_pb2.ImportBatch]:
                    yield admin_pb2.ImportBatch(batch_id=1)
                    never.wait(CALL_TIMEOUT_S)

                client.expect(
                    "late import", LEFT, lambda r=requests: list(admin.Import(r(), timeout=0.02))
                )
                never.set()


def cancels(client: Client, draw: random.Random) -> None:
    """Calls that their caller gives up at once, or a moment later."""
    with client.channel() as channel:
        feed = feed_pb2_grpc.FeedServiceStub(channel)
        admin = admin_pb2_grpc.AdminServiceStub(channel)
        for _ in range(CALLS_PER_CHANNEL):
            if client.stop.wait(PAUSE_S / 4):
                return
            request = feed_pb2.GetFeedRequest(user_id=draw.randint(1, USERS))
            futures = [feed.GetFeed.future(request, timeout=CALL_TIMEOUT_S) for _ in range(4)]
            for future in futures:
                if draw.random() < 0.3:
                    time.sleep(draw.random() * 0.002)
                future.cancel()
                client.count("cancelled feed")
            if draw.random() < 0.1:
                never = threading.Event()

                def requests(never: threading.Event = never) -> Iterator[admin_pb2.ImportBatch]:
                    yield admin_pb2.ImportBatch(batch_id=1)
                    never.wait(CALL_TIMEOUT_S)

                stream = admin.Import(requests(), timeout=CALL_TIMEOUT_S)
                if draw.random() < 0.5:
                    next(stream)
                stream.cancel()
                never.set()
                client.count("cancelled import")


def disconnects(client: Client, draw: random.Random) -> None:
    """Connections that end anywhere, with FIN or with RST."""
    message = feed_pb2.GetFeedRequest(user_id=draw.randint(1, USERS)).SerializeToString()
    for _ in range(CALLS_PER_CHANNEL):
        if client.stop.wait(PAUSE_S):
            return
        peer = RawPeer(client.socket())
        calls = b"".join(call(GET_FEED, message, 2 * n + 1) for n in range(draw.randint(1, 8)))
        ending = draw.randrange(5)
        if ending == 0:  # anywhere, mostly in the middle of a frame
            peer.sock.sendall(calls[: draw.randrange(len(calls))])
        elif ending == 1:  # the calls are at work
            peer.sock.sendall(calls)
        elif ending == 2:  # the answers are on their way
            peer.sock.sendall(calls)
            peer.until(HEADERS)
        elif ending == 3:  # half a request: its message says it is longer
            peer.sock.sendall(request_headers(GET_FEED))
            peer.sock.sendall(frame(DATA, 0, 1, b"\x00\x00\x01\x00\x00abc"))
        else:  # what is no HTTP/2
            peer.sock.sendall(draw.randbytes(200))
        if draw.random() < 0.5:
            peer.reset()
            client.count("reset connection")
        else:
            peer.sock.close()
            client.count("closed connection")


HABITS = (whole_calls, whole_calls, streams, deadlines, cancels, disconnects)


def repeat(client: Client, habit: Callable[[Client, random.Random], None], number: int) -> None:
    draw = random.Random(f"{client.seed} {number}")
    try:
        while not client.stop.is_set():
            habit(client, draw)
    except Exception as error:
        client.faults.append(f"{habit.__name__}: {type(error).__name__}: {error}")
        client.stop.set()


def main(address: str, seconds: float, seed: int, authority: Path | None) -> int:
    client = Client(address, seed, authority)
    threads = [
        threading.Thread(target=repeat, args=(client, habit, number))
        for number, habit in enumerate(HABITS)
    ]
    for thread in threads:
        thread.start()
    client.stop.wait(seconds)
    client.stop.set()
    for thread in threads:
        thread.join()
    print(json.dumps({"tally": client.tally, "faults": client.faults}))
    return 1 if client.faults else 0


if __name__ == "__main__":
    trusted = Path(sys.argv[4]) if len(sys.argv) > 4 else None
    sys.exit(main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), trusted))
