"""Kafka's protocol: metadata, one topic made, one record written and read back.

The oldest versions that brokers of 4.x answer, since they have the plainest encoding.
"""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass

from .sockets import Connection, WireError

PRODUCE, FETCH, METADATA, CREATE_TOPICS = (0, 3), (1, 4), (3, 4), (19, 2)
TOPIC_EXISTS = 36
# What the broker may wait for its peers; below the socket's own bound.
WAIT_MS = 5_000
FETCH_BYTES = 65_536


@dataclass(slots=True)
class Partition:
    error: int
    leader: int
    replicas: list[int]
    in_sync: list[int]


@dataclass(slots=True)
class Metadata:
    brokers: dict[int, tuple[str, int]]
    controller: int
    partitions: dict[int, Partition]


class Broker:
    """One connection to one broker."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def metadata(self, topic: str | None = None) -> Metadata:
        """Of all brokers, and of one topic's partitions."""
        body = struct.pack(">i", 0) if topic is None else struct.pack(">i", 1) + _string(topic)
        reader = self._call(METADATA, body + b"\0")
        reader.take(">i")
        brokers = {}
        for _ in range(reader.take(">i")):
            node, host, port = reader.take(">i"), reader.string(), reader.take(">i")
            reader.string()
            brokers[node] = (host or "", port)
        reader.string()
        controller, partitions = reader.take(">i"), {}
        for _ in range(reader.take(">i")):
            reader.take(">h"), reader.string(), reader.take(">b")
            for _ in range(reader.take(">i")):
                error, index, leader = reader.take(">h"), reader.take(">i"), reader.take(">i")
                partitions[index] = Partition(error, leader, reader.ints(), reader.ints())
        return Metadata(brokers, controller, partitions)

    def create_topic(self, topic: str, partitions: int, replicas: int) -> None:
        """Nothing, when it is there."""
        body = struct.pack(">i", 1) + _string(topic)
        body += struct.pack(">ihii", partitions, replicas, 0, 0) + struct.pack(
            ">i?", WAIT_MS, False
        )
        reader = self._call(CREATE_TOPICS, body)
        reader.take(">i"), reader.take(">i"), reader.string()
        error, message = reader.take(">h"), reader.string()
        if error not in (0, TOPIC_EXISTS):
            raise WireError(f"Kafka: topic {topic} not made: error {error} {message or ''}")

    def produce(self, topic: str, partition: int, value: bytes) -> int:
        """Writes one record with acks=all; its offset."""
        batch = record_batch(value)
        body = struct.pack(">hhi", -1, -1, WAIT_MS) + struct.pack(">i", 1) + _string(topic)
        body += struct.pack(">iii", 1, partition, len(batch)) + batch
        reader = self._call(PRODUCE, body)
        reader.take(">i"), reader.string(), reader.take(">i"), reader.take(">i")
        error, offset = reader.take(">h"), reader.take(">q")
        if error:
            raise WireError(f"Kafka: record not written to {topic}: error {error}")
        return offset

    def fetch(self, topic: str, partition: int, offset: int) -> bytes:
        """Record batches from an offset on, as they are on disk."""
        body = struct.pack(">iiiib", -1, WAIT_MS, 1, FETCH_BYTES, 0)
        body += struct.pack(">i", 1) + _string(topic)
        body += struct.pack(">iiqi", 1, partition, offset, FETCH_BYTES)
        reader = self._call(FETCH, body)
        reader.take(">i"), reader.take(">i"), reader.string(), reader.take(">i"), reader.take(">i")
        error = reader.take(">h")
        if error:
            raise WireError(f"Kafka: {topic} not read: error {error}")
        reader.take(">q"), reader.take(">q")
        for _ in range(max(reader.take(">i"), 0)):
            reader.take(">q"), reader.take(">q")
        size = reader.take(">i")
        return reader.data[reader.at : reader.at + max(size, 0)]

    def _call(self, api: tuple[int, int], body: bytes) -> _Reader:
        request = struct.pack(">hhi", *api, 1) + _string("services") + body
        self._connection.send(struct.pack(">i", len(request)) + request)
        (size,) = struct.unpack(">i", self._connection.read(4))
        reader = _Reader(self._connection.read(size))
        reader.take(">i")
        return reader


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, form: str) -> int:
        (value,) = struct.unpack_from(form, self.data, self.at)
        self.at += struct.calcsize(form)
        return int(value)

    def string(self) -> str | None:
        size = self.take(">h")
        if size < 0:
            return None
        self.at += size
        return self.data[self.at - size : self.at].decode()

    def ints(self) -> list[int]:
        return [self.take(">i") for _ in range(self.take(">i"))]


def _string(text: str) -> bytes:
    return struct.pack(">h", len(text)) + text.encode()


def record_batch(value: bytes) -> bytes:
    """A batch of one record without key or headers (message format 2)."""
    inner = b"\0\0\0" + _varint(-1) + _varint(len(value)) + value + _varint(0)
    record = _varint(len(inner)) + inner
    now_ms = time.time_ns() // 1_000_000
    tail = struct.pack(">hiqqqhii", 0, 0, now_ms, now_ms, -1, -1, -1, 1) + record
    body = struct.pack(">ibI", -1, 2, crc32c(tail)) + tail
    return struct.pack(">qi", 0, len(body)) + body


def _varint(value: int) -> bytes:
    """Zigzag, seven bits a byte."""
    number = (value << 1) ^ (value >> 63)
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli), bit by bit: for a hundred bytes that is enough."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 & -(crc & 1))
    return crc ^ 0xFFFFFFFF
