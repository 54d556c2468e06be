"""The attacker: runs one attack of the catalogue against a port of this machine, reconnecting
whenever it is cut off, for a bounded time.

    python -m tests.chaos.attacks.attacker GROUP NAME PORT SECONDS

prints `made` when its bytes are made, begins with the next line of its input, and prints at the end
one line of JSON: how many connections it had, what it sent on them, how many of its calls were
answered, and how each connection ended. It comes from ADDRESS, so that a server can tell it from an
honest caller. One thread, no event loop: select.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import struct
import sys
import time
from collections import Counter

from tests.chaos.attacks.catalogue import Attack, attack
from tests.support.rawclient import Code

ADDRESS = "127.0.0.2"
READ_BYTES = 1 << 16
UNREAD_BYTES = 4_096  # what the kernel takes for one who does not read, or it hides that from us
CONNECT_S = 5.0
HEADERS, RST, GOAWAY, FRAME_HEADER = 1, 3, 7, 9
POLL_S = 0.05
VERDICT_S = 1.0  # after its last byte an attacker listens so long for its verdict
TCP_ENDED = (7, 8)  # CLOSE and CLOSE_WAIT in the first byte of TCP_INFO
RECONNECT_S = 0.02  # a server that cuts off at once is not to be measured by its accepts alone


class Victim:
    """One connection to the server, as the attacker sees it."""

    def __init__(self, port: int, plan: Attack) -> None:
        self._plan = plan
        self._socket = socket.socket()
        if not plan.reads:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, UNREAD_BYTES)
        self._socket.settimeout(CONNECT_S)
        self._socket.bind((ADDRESS, 0))
        self._socket.connect(("127.0.0.1", port))
        self._socket.setblocking(False)
        self._view = memoryview(plan.opening)
        self._floods_left = plan.floods if plan.flood else 0
        self._endless = bool(plan.flood) and plan.floods == 0
        self._steps = list(reversed(plan.steps))
        self._answered = True  # whether something has come since the last step
        self._input = b""
        self._last_sent_s = time.monotonic()
        self.sent = self.answers = 0
        self.end = ""

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def wants_to_send(self) -> bool:
        more = self._endless or self._floods_left > 0 or (bool(self._steps) and self._answered)
        return len(self._view) > 0 or more

    @property
    def done(self) -> bool:
        """Nothing is left to do here."""
        if self.end or self.wants_to_send or self._plan.patient or self._steps:
            return bool(self.end)
        return time.monotonic() > self._last_sent_s + VERDICT_S

    def look(self) -> None:
        """Notices an end without reading."""
        state = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
        if state in TCP_ENDED:
            self._finish("cut off unread")

    def send(self) -> None:
        """As much as the socket takes."""
        if not self._view and (self._endless or self._floods_left > 0):
            self._view = memoryview(self._plan.flood)
            self._floods_left -= 1
        elif not self._view:
            self._view = memoryview(self._steps.pop())
            self._answered = False
        try:
            count = self._socket.send(self._view[: 1 << 20])
        except BlockingIOError:
            return
        except OSError as error:
            self._finish(type(error).__name__)
            return
        self.sent += count
        self._last_sent_s = time.monotonic()
        self._view = self._view[count:]

    def read(self) -> None:
        """What has come; a GOAWAY or an end is noted."""
        try:
            data = self._socket.recv(READ_BYTES)
        except (BlockingIOError, TimeoutError):
            return
        except OSError as error:
            self._finish(type(error).__name__)
            return
        self._input += data
        self._answered = True
        goaway = self._goaway()
        if goaway or not data:
            self._finish(goaway or "closed")

    def _goaway(self) -> str:
        """The GOAWAY among the frames that came, in words; whole frames are dropped."""
        at = 0
        while at + FRAME_HEADER <= len(self._input):
            size = int.from_bytes(self._input[at : at + 3], "big")
            end = at + FRAME_HEADER + size
            if end > len(self._input):
                break
            self.answers += self._input[at + 3] in (HEADERS, RST)
            if self._input[at + 3] == GOAWAY:
                _, code = struct.unpack_from(">II", self._input, at + FRAME_HEADER)
                debug = self._input[at + FRAME_HEADER + 8 : end].decode("latin-1")
                return f"GOAWAY {Code(code).name} {debug}".strip()
            at = end
        self._input = self._input[at:]
        return ""

    def _finish(self, how: str) -> None:
        """The end; what the server had to say may still be in the socket's buffer."""
        self.end = how
        if not how.startswith("GOAWAY"):
            with contextlib.suppress(OSError):
                while data := self._socket.recv(READ_BYTES):
                    self._input += data
            self.end = self._goaway() or how
        self._socket.close()

    def close(self) -> str:
        """Hangs up; how the server had ended it, "" if it had not. One who never read looks now:
        with no room in his window he could not be told."""
        if not self.end and not self._plan.reads:
            self._socket.settimeout(POLL_S)
            until_s = time.monotonic() + VERDICT_S
            while not self.end and time.monotonic() < until_s:
                self.read()
        if not self.end:
            self._socket.close()
        return self.end


def run(port: int, plan: Attack, seconds: float) -> dict[str, object]:
    """The whole attack."""
    began_s = time.monotonic()
    ends: Counter[str] = Counter()
    victims: list[Victim] = []
    connections = sent = answers = refused = 0
    while time.monotonic() < began_s + seconds:
        finished = [victim for victim in victims if victim.done]
        for victim in finished:
            victims.remove(victim)
            ends[victim.close() or "survived"] += 1
            sent += victim.sent
            answers += victim.answers
        if plan.patient and finished and not victims:
            break
        if not plan.patient or connections < plan.side_by_side:
            try:
                while len(victims) < plan.side_by_side:
                    victims.append(Victim(port, plan))
                    connections += 1
            except OSError:
                refused += 1
            if finished:
                time.sleep(RECONNECT_S)
        readers = victims if plan.reads else []
        writers = [victim for victim in victims if victim.wants_to_send]
        can_read, can_write, _ = select.select(readers, writers, [], POLL_S)
        for victim in can_read:
            victim.read()
        for victim in can_write:
            if not victim.end:
                victim.send()
        for victim in [] if plan.reads else victims:
            if not victim.end:
                victim.look()
    for victim in victims:
        ends[victim.close() or "survived"] += 1
        sent += victim.sent
        answers += victim.answers
    lasted_s = round(time.monotonic() - began_s, 2)
    return {
        "connections": connections,
        "refused": refused,
        "bytes": sent,
        "answers": answers,
        "seconds": lasted_s,
        "ends": ends,
    }


def main() -> None:
    """Makes the bytes, attacks, reports."""
    group, name, port, seconds = sys.argv[1:]
    plan = attack(group, name)
    print("made", flush=True)
    sys.stdin.readline()
    print(json.dumps(run(int(port), plan, float(seconds))), flush=True)


if __name__ == "__main__":
    main()
