"""Replies as tables for people. Pure: messages and a time in, rich renderables out."""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text

from feedcore_pb.v1 import admin_pb2, feed_pb2, types_pb2

TEXT_CHARS = 120  # of a post in a table: one or two lines
MINUTE_S, HOUR_S, DAY_S = 60, 3_600, 86_400


def age(now_ms: int, at_ms: int) -> str:
    """How long ago, in the largest fitting unit."""
    seconds = max(0, now_ms - at_ms) // 1_000
    for size, unit in ((DAY_S, "d"), (HOUR_S, "h"), (MINUTE_S, "m")):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def one_line(text: str, chars: int = TEXT_CHARS) -> Text:
    """The text without breaks, control characters or markup, cut to `chars`."""
    flat = " ".join(text.split())
    flat = "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in flat
    )
    return Text(flat if len(flat) <= chars else f"{flat[: chars - 1]}\N{HORIZONTAL ELLIPSIS}")


def page_table(user_id: int, page: feed_pb2.GetFeedResponse, first: int, now_ms: int) -> Table:
    """One page of a feed; rows are numbered from `first`. Readable on 80 columns, too."""
    table = Table(title=f"feed of user {user_id}", title_justify="left", box=box.SIMPLE_HEAD)
    for name in ("#", "score", "author", "age", "likes"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("post", ratio=1)
    table.add_column("content id", no_wrap=True)
    for number, item in enumerate(page.items, first):
        body = item.content.body if item.HasField("content") else "(content not available)"
        author = str(item.author_id)
        if item.reason not in (types_pb2.REASON_FOLLOWED, types_pb2.REASON_UNSPECIFIED):
            author += f" ({types_pb2.Reason.Name(item.reason).removeprefix('REASON_').lower()})"
        table.add_row(
            str(number),
            f"{item.score:.3f}",
            author,
            age(now_ms, item.published_at_ms),
            f"{item.counts.likes:,}",
            one_line(body),
            str(item.content_id),
        )
    return table


def receipt_line(receipt: types_pb2.Receipt) -> str:
    """How the page came about, in a line."""
    origin = types_pb2.FeedOrigin.Name(receipt.origin).removeprefix("FEED_ORIGIN_").lower()
    parts = [
        f"from {origin}",
        f"{receipt.candidates} candidates",
        f"{receipt.followees} followed",
        f"{receipt.pull_sources_considered} of {receipt.pull_sources_total} pulled authors",
        f"ranking version {receipt.ranking_version}",
    ]
    if receipt.filtered:
        dropped = ", ".join(f"{count} {name}" for name, count in sorted(receipt.filtered.items()))
        parts.append(f"left out: {dropped}")
    failed = [f"{source.name}: {source.error}" for source in receipt.sources if not source.ok]
    if receipt.degraded:
        parts.append(f"DEGRADED ({'; '.join(failed) or 'see the receipt'})")
    return " | ".join(parts)


def status_tables(status: admin_pb2.GetStatusResponse, now_ms: int) -> list[Table | str]:
    """Everything `admin status` shows."""
    up = age(now_ms, status.started_ms) if status.started_ms else "?"
    head = (
        f"feedcore {status.version}, up {up}, {status.workers} processes, "
        f"{status.deliveries:,} deliveries, "
        f"merge backlog {status.merge_backlog:,}, dead letters {status.dead_letters}"
    )
    components = Table("component", "ok", "detail")
    for component in status.components:
        components.add_row(
            component.name, "yes" if component.ok else "NO", one_line(component.detail, 200)
        )
    operations = Table("operation", "calls", "failures", "calls/s", "p50 ms", "p99 ms")
    for operation in status.operations:
        operations.add_row(
            operation.name,
            f"{operation.calls:,}",
            f"{operation.failures:,}",
            f"{operation.rate:.1f}",
            f"{operation.p50_ms:.2f}",
            f"{operation.p99_ms:.2f}",
        )
    lanes = Table("lane", "jobs", "lag ms", "paused")
    for lane in status.lanes:
        lanes.add_row(lane.name, f"{lane.jobs:,}", f"{lane.lag_ms:,}", "yes" if lane.paused else "")
    store = Table("store", "")
    for name, value in sorted(status.store.items()):
        store.add_row(name, f"{value:,}")
    return [head, components, operations, lanes, store]


def dead_letters_table(answer: admin_pb2.ListDeadLettersResponse, now_ms: int) -> Table:
    """Everything `admin dead-letters` shows."""
    table = Table("job", "kind", "post", "author", "user", "attempts", "failed", "error")
    for one in answer.dead_letters:
        numbers = (one.content_id, one.author_id, one.user_id, one.attempts)
        failed = f"{age(now_ms, one.failed_ms)} ago"
        table.add_row(str(one.job_id), one.kind, *map(str, numbers), failed, one_line(one.error))
    return table


def parameters_table(config: admin_pb2.RankingConfig) -> Table:
    """Ranking parameters, one column an arm."""
    title = f"ranking version {config.version}"
    if config.experiment:
        title += f", experiment {config.experiment}"
    table = Table(title=title, title_justify="left")
    table.add_column("parameter")
    columns = [("everybody" if not config.arms else "outside", config.parameters)]
    columns += [(f"{arm.name} (weight {arm.weight})", arm.parameters) for arm in config.arms]
    for name, _ in columns:
        table.add_column(name, justify="right")
    for field in admin_pb2.RankingParameters.DESCRIPTOR.fields:
        table.add_row(
            field.name, *(f"{getattr(parameters, field.name):g}" for _, parameters in columns)
        )
    return table


def explanation_tables(answer: admin_pb2.ExplainResponse, now_ms: int) -> list[Table | str]:
    """Everything `admin explain` shows."""
    lines: list[Table | str] = [answer.verdict]
    if answer.delivered_at_ms:
        lines.append(
            f"delivered by {answer.delivered_by}, {age(now_ms, answer.delivered_at_ms)} ago"
        )
    filters = Table("filter", "verdict")
    for verdict in answer.filters:
        filters.add_row(verdict.name, "keeps it out" if verdict.dropped else "lets it pass")
    terms = Table("score term", "factor")
    for term in answer.terms:
        terms.add_row(term.name, f"{term.value:.4f}")
    terms.add_row("score", f"{answer.score:.4f}")
    arm = f", arm {answer.experiment_arm}" if answer.experiment_arm else ""
    place = f"rank {answer.rank}" if answer.rank else "not among the candidates of the first page"
    return [*lines, filters, terms, f"{place}, ranking version {answer.ranking_version}{arm}"]
