"""Every input of the corpus, and a bounded number of seeded mutations of it, in every test run.

`make fuzz` looks further, guided by coverage. What it finds joins tests/fuzz/corpus as crash-*.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fuzz import framing_target, session_target
from tests.fuzz.mutation import mutants

LONG = os.environ.get("FEEDCORE_LONG") == "1"
CORPUS = Path(__file__).parent / "corpus"
FILES_MAX, BYTES_MAX = 200, 200_000  # a corpus is read with every checkout
MUTANTS = 60_000 if LONG else 6_000
TARGETS: dict[str, Callable[[bytes], None]] = {
    "session": session_target.one_input,
    "framing": framing_target.one_input,
}


def corpus(target: str) -> list[Path]:
    return sorted((CORPUS / target).iterdir())


def replay(target: str, data: bytes, name: str) -> None:
    try:
        TARGETS[target](data)
    except BaseException as error:
        error.add_note(f"{target}, {name}: {data.hex()}")
        raise


@pytest.mark.parametrize("target", TARGETS)
def test_the_corpus_replays(target: str) -> None:
    for path in corpus(target):
        replay(target, path.read_bytes(), path.name)


@pytest.mark.parametrize("target", TARGETS)
def test_mutations_of_the_corpus(target: str) -> None:
    inputs = [path.read_bytes() for path in corpus(target)]
    for number, data in enumerate(mutants(inputs, seed=7, count=MUTANTS)):
        replay(target, data, f"mutation {number} of seed 7")


def test_the_corpus_is_small() -> None:
    sizes = [path.stat().st_size for target in TARGETS for path in corpus(target)]
    assert len(sizes) <= FILES_MAX and sum(sizes) <= BYTES_MAX


def test_a_breach_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The targets can fail: an account that forgets to give back, a reader that loses a message."""
    ends = session_target.Run.events
    monkeypatch.setattr(
        session_target.Run,
        "events",
        lambda run, events: ends(run, events and [*events, *events]),
    )
    with pytest.raises(session_target.Breach):
        session_target.one_input((CORPUS / "session" / "seed-fast").read_bytes())
    monkeypatch.setattr(framing_target.grpcframe, "read_messages", lambda pieces, limit: ([], 0, 0))
    with pytest.raises(AssertionError):
        framing_target.one_input((CORPUS / "framing" / "seed-messages").read_bytes())
