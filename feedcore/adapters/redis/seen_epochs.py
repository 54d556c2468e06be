"""What a node remembers of users between loads, bounded: the epoch it saw last, and the proofs of
loads under way.

Not for the epochs themselves, which are in Redis, nor for the local counters that they move.
"""

from __future__ import annotations

from array import array
from collections.abc import Hashable

from feedcore.adapters.redis.pages import Proof

SEEN_BITS = 20  # 1 M users: 20 MB
_MULTIPLIER = 0x9E3779B97F4A7C15  # 2^64 / golden ratio (Knuth 6.4)
_U64_MASK = (1 << 64) - 1
MAKING_MAX = 20_000  # loads under way; more are not left to others
MAKING_MS_MAX = 60_000  # who has not kept a page by then never will


class SeenEpochs:
    """user -> (epoch, when what is kept of the user was invalidated last). Two places a user, the
    newer first; who has no place any more is unknown, which costs a load.
    """

    def __init__(self, bits: int = SEEN_BITS) -> None:
        size = 1 << bits
        self._shift = 64 - bits + 1  # sets of two places
        self._users = array("Q", bytes(8 * size))
        self._epochs = array("Q", bytes(8 * size))
        self._seconds = array("I", bytes(4 * size))

    def find(self, user_id: int) -> tuple[int, int]:
        """(epoch, second), (0, 0) if unknown: no epoch is 0."""
        at = self._at(user_id)
        users = self._users
        if users[at] != user_id:
            at += 1
            if users[at] != user_id:
                return 0, 0
        return self._epochs[at], self._seconds[at]

    def put(self, user_id: int, epoch: int, second: int) -> None:
        """From now on; the older of the two in the set gives way."""
        at = self._at(user_id)
        users, epochs, seconds = self._users, self._epochs, self._seconds
        if users[at] != user_id:
            users[at + 1], epochs[at + 1] = users[at], epochs[at]
            seconds[at + 1] = seconds[at]
        users[at], epochs[at], seconds[at] = user_id, epoch, second & 0xFFFFFFFF

    def forget(self, user_id: int) -> None:
        """Unknown from now on."""
        at = self._at(user_id)
        for place in (at, at + 1):
            if self._users[place] == user_id:
                self._epochs[place] = 0

    def _at(self, user_id: int) -> int:
        return ((user_id * _MULTIPLIER & _U64_MASK) >> self._shift) << 1


class Making:
    """Proofs of loads under way, by what is loaded: the oldest counts for all who load the same at
    the same time, so that nothing is kept with a proof newer than its data.
    """

    def __init__(self) -> None:
        self._proofs: dict[Hashable, tuple[Proof, int]] = {}

    def begin(self, what: Hashable, proof: Proof) -> None:
        """Somebody is about to load it, and knows this."""
        found = self._proofs.get(what)
        if found is not None and proof.made_ms - found[0].made_ms < MAKING_MS_MAX:
            self._proofs[what] = found[0], found[1] + 1
        elif found is not None or self._has_room(proof.made_ms):
            self._proofs[what] = proof, 1

    def end(self, what: Hashable) -> Proof | None:
        """Of one that was loaded; None if it may not be kept."""
        found = self._proofs.pop(what, None)
        if found is None:
            return None
        proof, loading = found
        if loading > 1:  # whoever joins from now on may have read what is older than their proof
            self._proofs[what] = proof, loading - 1
        return proof

    def __contains__(self, what: Hashable) -> bool:
        return what in self._proofs

    def clear(self) -> None:
        """Nothing that is under way may be kept."""
        self._proofs.clear()

    def _has_room(self, now_ms: int) -> bool:
        proofs = self._proofs
        while len(proofs) >= MAKING_MAX:
            oldest = next(iter(proofs))
            if now_ms - proofs[oldest][0].made_ms < MAKING_MS_MAX:
                return False
            del proofs[oldest]
        return True
