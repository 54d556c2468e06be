"""The ceiling's table compares within rounds, and counts nothing that was not right.

That it runs at all is held by `python -m feedcore_bench.ceiling --small`, in every `make test`.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from click.testing import CliRunner

pytest.importorskip("feedcore_bench._native.h2client", reason="no native transport")

from feedcore_bench import ceiling
from feedcore_bench.ceiling import CYCLE, H2LOAD, OPEN, PYTHON, Sample


def test_ratios_are_taken_within_a_round() -> None:
    # The machine was ten times slower in round 1: for both.
    samples = []
    for number, (ours, peer) in enumerate([(200.0, 100.0), (21.0, 10.0), (190.0, 100.0)]):
        samples.append(Sample(PYTHON, 2_500, number, ours, 4.0))
        samples.append(Sample(H2LOAD, 2_500, number, peer, 5.0))
    samples.append(Sample(OPEN, 2_500, 0, 70.0, None, 120.0))
    samples.append(Sample(CYCLE, 8_192, 0, 50.0, 2.0))
    samples.append(Sample(H2LOAD, 9_000, 0, 7.0, 0.0))  # below the resolution of the clock
    lines = ceiling.table(samples).splitlines()[2:]
    assert lines == [
        "| 2,500 B | closed loop | 190 | 2.00 | 4.00 us | 250,000 |  |",
        "| 2,500 B | open loop | 70 | 0.70 |  |  | 120 us |",
        "| 2,500 B | h2load | 100 | 1.00 | 5.00 us | 200,000 |  |",
        "| 8,192 B | closed loop, cycle | 50 |  | 2.00 us | 500,000 |  |",
        "| 9,000 B | h2load | 7 | 1.00 | 0.00 us |  |  |",
    ]


@pytest.mark.parametrize(("status", "size"), [(14, 5), (0, 4)])
def test_a_wrong_reply_is_refused(status: int, size: int) -> None:
    checked = ceiling.Checked(5)
    assert checked.next() == (0, ceiling.REQUEST, 1)
    found = SimpleNamespace(
        mode="closed", failed=SimpleNamespace(count=0), unanswered=0, lost=0, ok=1, statuses=[]
    )
    checked.done(1, 0, 0, b"12345", 1, 1, "")
    assert ceiling.right(found, checked) is found  # type: ignore[arg-type, comparison-overlap]
    checked.done(1, 0, status, b"12345"[:size], 1, 1, "")
    with pytest.raises(RuntimeError, match="1 wrong"):
        ceiling.right(found, checked)  # type: ignore[arg-type]


@pytest.mark.parametrize("flags", [[], ["--small"]])
def test_without_its_tools_it_skips_with_a_word(
    flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    done = CliRunner().invoke(ceiling.main, flags)
    assert done.exit_code == 0
    assert done.output == (
        "ceiling: SKIPPED, nghttpd and h2load missing: apt-get install nghttp2-server"
        " nghttp2-client\n"
    )
