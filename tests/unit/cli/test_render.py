"""Tables: what a person sees of a reply; nothing a post contains may reach the terminal as
control.
"""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from feedcore.cli import render
from feedcore_pb.v1 import admin_pb2, feed_pb2, types_pb2

NOW_MS = 1_800_000_000_000


def text_of(*parts: object) -> str:
    console = Console(width=160, record=True, file=io.StringIO())
    for part in parts:
        console.print(part)
    return console.export_text()


@pytest.mark.parametrize(
    ("ago_ms", "text"),
    [
        (0, "0s"),
        (-5_000, "0s"),
        (59_999, "59s"),
        (60_000, "1m"),
        (3_600_000, "1h"),
        (86_400_000, "1d"),
        (6 * 86_400_000 + 1, "6d"),
    ],
)
def test_age_in_the_largest_unit(ago_ms: int, text: str) -> None:
    assert render.age(NOW_MS, NOW_MS - ago_ms) == text


def test_posts_cannot_write_to_the_terminal() -> None:
    shown = render.one_line("a\nb\x1b[31mred [bold]x[/bold] \u202e", 100).plain
    assert "\x1b" not in shown and "\n" not in shown and "\u202e" not in shown
    assert "[bold]x[/bold]" in shown
    assert render.one_line("x" * 121).plain == "x" * 119 + "\N{HORIZONTAL ELLIPSIS}"


def test_a_page_shows_items_and_receipt() -> None:
    item = types_pb2.FeedItem(
        content_id=2**63 - 1,
        author_id=7,
        published_at_ms=NOW_MS - 3_600_000,
        content=types_pb2.Content(body="hello [red]there"),
        counts=types_pb2.Counts(likes=3),
        score=0.5,
        reason=types_pb2.REASON_TRENDING,
    )
    bare = types_pb2.FeedItem(content_id=5, author_id=8, published_at_ms=NOW_MS)
    receipt = types_pb2.Receipt(
        origin=types_pb2.FEED_ORIGIN_STORED,
        degraded=True,
        candidates=500,
        filtered={"muted": 2},
        sources=[types_pb2.SourceReport(name="content", ok=False, error="timed out")],
    )
    page = feed_pb2.GetFeedResponse(items=[item, bare], receipt=receipt)
    shown = text_of(render.page_table(42, page, 21, NOW_MS), render.receipt_line(page.receipt))
    for word in (
        "user 42",
        "21",
        "22",
        "0.500",
        "1h",
        "hello [red]there",
        str(2**63 - 1),
        "7 (trending)",
    ):
        assert word in shown
    for word in ("from stored", "500 candidates", "2 muted", "DEGRADED", "content: timed out"):
        assert word in shown
    assert "(content not available)" in shown


def test_status_ranking_and_explanation_are_tables() -> None:
    status = admin_pb2.GetStatusResponse(
        version="9.9",
        components=[admin_pb2.ComponentStatus(name="store", ok=False, detail="disk [full]")],
        operations=[admin_pb2.OperationStatus(name="GetFeed", calls=1_234, p99_ms=2.5)],
        lanes=[admin_pb2.LaneStatus(name="rest", jobs=3, paused=True)],
        store={"posts": 20_000},
    )
    shown = text_of(*render.status_tables(status, NOW_MS))
    for word in ("9.9", "disk [full]", "NO", "1,234", "2.50", "rest", "20,000"):
        assert word in shown
    config = admin_pb2.RankingConfig(version=3, experiment="fresh")
    config.arms.add(name="b", weight=2, parameters=admin_pb2.RankingParameters(half_life_hours=6))
    shown = text_of(render.parameters_table(config))
    for word in ("version 3", "fresh", "b (weight 2)", "half_life_hours", "6"):
        assert word in shown
    answer = admin_pb2.ExplainResponse(verdict="muted", delivered_by="push", delivered_at_ms=NOW_MS)
    answer.filters.add(name="muted", dropped=True)
    answer.terms.add(name="recency", value=0.25)
    shown = text_of(*render.explanation_tables(answer, NOW_MS))
    for word in ("muted", "by push", "keeps it out", "0.2500"):
        assert word in shown
