"""CQL's native protocol, version 4: connect, one query, its rows as bytes."""

from __future__ import annotations

import struct

from .sockets import Connection, WireError

VERSION = 4
STARTUP, READY, QUERY, RESULT = 0x01, 0x02, 0x07, 0x08
ROWS = 2
ONE, QUORUM, ALL = 0x0001, 0x0004, 0x0005
# Types that name others: custom, list, map, set.
CUSTOM, LIST, MAP, SET = 0x0000, 0x0020, 0x0021, 0x0022


class Session:
    """One connection to one node, which coordinates what is asked."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        body = struct.pack(">H", 1) + _string("CQL_VERSION") + _string("3.0.0")
        opcode, _ = self._call(STARTUP, body)
        if opcode != READY:
            raise WireError(f"CQL: opcode {opcode} after STARTUP, not READY")

    def query(self, text: str, consistency: int = ONE) -> list[list[bytes | None]]:
        data = text.encode()
        body = struct.pack(">i", len(data)) + data + struct.pack(">HB", consistency, 0)
        opcode, answer = self._call(QUERY, body)
        if opcode != RESULT:
            raise WireError(f"CQL: opcode {opcode} after QUERY, not RESULT")
        return _rows(_Reader(answer))

    def _call(self, opcode: int, body: bytes) -> tuple[int, bytes]:
        self._connection.send(struct.pack(">BBhBi", VERSION, 0, 0, opcode, len(body)) + body)
        _, flags, _, answered, size = struct.unpack(">BBhBi", self._connection.read(9))
        answer = self._connection.read(size)
        if answered == 0:
            reader = _Reader(answer)
            raise WireError(f"CQL error 0x{reader.number():04x}: {reader.string()}")
        if flags & 0x08:
            # Warnings come before the result.
            reader = _Reader(answer)
            for _ in range(reader.short()):
                reader.string()
            answer = answer[reader.at :]
        return answered, answer


def _string(text: str) -> bytes:
    return struct.pack(">H", len(text)) + text.encode()


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, size: int) -> bytes:
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self) -> int:
        return int(struct.unpack(">i", self.take(4))[0])

    def short(self) -> int:
        return int(struct.unpack(">H", self.take(2))[0])

    def string(self) -> str:
        return self.take(self.short()).decode()

    def blob(self) -> bytes | None:
        size = self.number()
        return None if size < 0 else self.take(size)

    def skip_type(self) -> None:
        kind = self.short()
        if kind == CUSTOM:
            self.string()
        for _ in range({LIST: 1, SET: 1, MAP: 2}.get(kind, 0)):
            self.skip_type()


def _rows(reader: _Reader) -> list[list[bytes | None]]:
    if reader.number() != ROWS:
        return []
    flags, columns = reader.number(), reader.number()
    if flags & 0x02:
        reader.blob()
    if flags & 0x01:
        reader.string(), reader.string()
    for _ in range(columns):
        if not flags & 0x01:
            reader.string(), reader.string()
        reader.string()
        reader.skip_type()
    return [[reader.blob() for _ in range(columns)] for _ in range(reader.number())]
