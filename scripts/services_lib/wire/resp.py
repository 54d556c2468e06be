"""Redis' protocol (RESP2): one command, one answer."""

from __future__ import annotations

from .sockets import Connection, WireError

Answer = bytes | int | None | list["Answer"]


def command(connection: Connection, *words: str | bytes | int) -> Answer:
    parts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    request = b"*%d\r\n" % len(parts)
    request += b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)
    connection.send(request)
    return answer(connection)


def answer(connection: Connection) -> Answer:
    line = connection.line()
    kind, rest = line[:1], line[1:]
    if kind == b"+":
        return rest
    if kind == b"-":
        raise WireError(rest.decode(errors="replace"))
    if kind == b":":
        return int(rest)
    if kind == b"$":
        size = int(rest)
        return None if size < 0 else connection.read(size + 2)[:-2]
    if kind == b"*":
        return [answer(connection) for _ in range(int(rest))]
    raise WireError(f"not RESP: {line[:40]!r}")
