"""`plan`: what a workload asks for, where it breaks first, and the cost of the push threshold.

Not for the arithmetic: feedcore_planner has it. This file turns flags into a workload, and plans
into tables, charts and JSON.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from rich import box
from rich.bar import Bar
from rich.table import Table
from rich.text import Text

from feedcore.cli.client import out
from feedcore.errors import InvalidField
from feedcore_planner import bottleneck, document
from feedcore_planner.capacity import Plan, plan
from feedcore_planner.figures import Figures, parse, shipped
from feedcore_planner.sweep import Sweep, sweep
from feedcore_planner.workload import BOUNDS, PRESETS, Workload

Command = TypeVar("Command", bound=Callable[..., Any])
SCALES_MAX = 20  # columns a table can have
BAR_COLUMNS = 40
SUFFIXES = {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}
# Field of a workload -> its flag, in the order of --help.
FLAGS = {
    "daily_users": "--users-per-day",
    "loads_per_user": "--loads-per-user",
    "visits_per_user": "--visits-per-user",
    "posts_per_user": "--posts-per-user",
    "accounts_per_daily_user": "--accounts-per-user",
    "load_peak_factor": "--load-peak",
    "post_peak_factor": "--post-peak",
    "followers_median": "--followers-median",
    "followers_mean": "--followers-mean",
    "followers_max": "--followers-max",
    "activity_exponent": "--activity-exponent",
    "active_share": "--active-share",
    "push_threshold": "--threshold",
    "retention_days": "--retention-days",
    "peak_s": "--peak-s",
    "freshness_s": "--freshness-s",
}
assert FLAGS.keys() == BOUNDS.keys()


class AmountType(click.ParamType):  # type: ignore[type-arg]  # older click: no generic
    """A number, with K, M, B or T if it is large: 200M."""

    name = "NUMBER"

    def convert(
        self, value: str | float, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, int | float):
            return float(value)
        text = value.strip().replace("_", "")
        factor = SUFFIXES.get(text[-1:].upper(), 1.0)
        try:
            number = float(text[:-1] if factor != 1.0 else text) * factor
        except ValueError:
            self.fail(f"{value!r} is not a number like 0.5, 12000 or 200M", param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


AMOUNT = AmountType()


class ScalesType(click.ParamType):  # type: ignore[type-arg]  # older click: no generic
    """Multiples of the users, by commas: 1,5,10."""

    name = "X,X,..."

    def convert(
        self,
        value: str | tuple[float, ...],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        scales = tuple(AMOUNT.convert(part, param, ctx) for part in value.split(","))
        if len(scales) > SCALES_MAX:
            self.fail(f"{len(scales)} scales; at most {SCALES_MAX}", param, ctx)
        return scales


def workload_options(command: Command) -> Command:
    """One option for each field of a workload; those not given keep the preset's value."""
    for field, flag in reversed(FLAGS.items()):
        bound = BOUNDS[field]
        meaning = f"{bound.meaning}  [{bound.unit}]"
        command = click.option(flag, field, type=AMOUNT, help=meaning)(command)
    return command


@click.command(
    "plan",
    epilog="""
\b
Examples:
  feedcore plan
  feedcore plan --users-per-day 20M --followers-max 5M --scale 1,10 --explain
  feedcore plan --sweep threshold
  feedcore plan --threshold 2000 --json
""",
)
@click.option(
    "--preset",
    type=click.Choice(sorted(PRESETS)),
    default="design",
    show_default=True,
    help="Where the inputs that are not given come from.",
)
@workload_options
@click.option(
    "--scale",
    "scales",
    type=ScalesType(),
    default=document.SCALES,
    metavar="X,X,...",
    help="Multiples of the users to plan for.  [default: 1,5,10,50,100]",
)
@click.option(
    "--figures",
    "figures_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Figures of your machines, in the form of tools/planner/figures.json.",
)
@click.option("--explain", is_flag=True, help="Print the derivation, for the first scale.")
@click.option(
    "--sweep",
    "swept",
    type=click.Choice(["threshold"]),
    help="Draw cost against the push threshold, for the first scale.",
)
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@click.option(
    "--rewrite",
    "rewritten_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Renew the tables between the marks of this Markdown file (docs/capacity.md).",
)
def plan_command(
    preset: str,
    scales: tuple[float, ...],
    figures_file: Path | None,
    explain: bool,
    swept: str | None,
    as_json: bool,
    rewritten_file: Path | None,
    **fields: float | None,
) -> None:
    """Servers, storage, cache, queue and fan-out for a number of users; what breaks first.

    The inputs are a workload (flags, on top of a preset) and what one core does (measured figures,
    each with the command that reproduces it).
    """
    given = {field: value for field, value in fields.items() if value is not None}
    if rewritten_file is not None and (given or preset != "design"):
        raise click.UsageError("--rewrite: the document is about the preset design, unchanged")
    try:
        figures = load_figures(figures_file)
        if rewritten_file is not None:
            text = rewritten_file.read_text(encoding="utf-8")
            rewritten_file.write_text(document.rewritten(text, figures), encoding="utf-8")
            return
        workload = PRESETS[preset].replace(**given)
        plans = [plan(workload, figures, scale) for scale in scales]
        curve = sweep(workload, figures, scales[0]) if swept else None
    except InvalidField as error:
        flag = {**FLAGS, "scale": "--scale"}.get(error.field, error.field)
        raise click.UsageError(f"{flag}: {error.seen}; {error.bound}") from error
    if as_json:
        click.echo(json.dumps(as_dict(workload, figures, plans, curve), indent=2))
    elif curve is not None:
        show_sweep(curve, scales[0])
    else:
        show_plans(workload, figures, plans)
        if explain:
            show_derivation(plans[0])


def load_figures(file: Path | None) -> Figures:
    """The shipped figures, or a file with the same names. Raises InvalidField."""
    known = shipped()
    return known if file is None else parse(file.read_text(encoding="utf-8"), known)


def table_of(rows: document.Rows, title: str, left: tuple[int, ...] = (0,)) -> Table:
    """Rows as a terminal's table: the first is the head, columns not in `left` are numbers."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for number, name in enumerate(rows[0]):
        table.add_column(name, justify="left" if number in left else "right", overflow="fold")
    for row in rows[1:]:
        bold = row[0].startswith("**")
        cells = [Text(cell.removeprefix("**").removesuffix("**")) for cell in row]
        table.add_row(*cells, style="bold" if bold else "")
    return table


def show_plans(workload: Workload, figures: Figures, plans: list[Plan]) -> None:
    """The table, what is full at which scale, and what is not measured."""
    out.print(table_of(document.plan_rows(plans, figures), "plan, at the peak"))
    rows = document.bottleneck_rows(plans[0], workload, figures)
    out.print(table_of(rows, "bottlenecks, the first on top", left=(0, 5)))
    first = bottleneck.uses(plans[0], figures)[0].resource
    out.print(f"about {first.name}: {first.remedy}", markup=False, soft_wrap=True)
    if plans[0].fits_one_node:
        scale = document.times(plans[0].scale)
        out.print(f"at {scale} one machine with the embedded store carries all of it")
    counts = {basis: sum(one.basis == basis for one in figures) for basis in ("goal", "assumed")}
    out.print(
        f"{counts['goal']} figures are goals and {counts['assumed']} assumptions:"
        " docs/capacity.md lists them; --explain prints the derivation",
        markup=False,
        soft_wrap=True,
    )


def show_derivation(made: Plan) -> None:
    """Each line of the sheet, with the values that went in."""
    group = ""
    for step in made.steps:
        if step.line.group != group:
            group = step.line.group
            out.print(Text(f"\n{group}, at {document.times(made.scale)}", style="bold"))
        out.print(f"  {document.step_text(step)}", markup=False, soft_wrap=True)
        if step.line.meaning:
            out.print(Text(f"      {step.line.meaning}", style="dim"), soft_wrap=True)


def show_sweep(curve: Sweep, scale: float) -> None:
    """A bar a threshold, and the table."""
    chart = Table(
        "threshold",
        "",
        "cores",
        title=f"cost against the push threshold, at {document.times(scale)}",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    dearest = max(point.cores for point in curve.points)
    for point in curve.points:
        bar = Bar(dearest, 0.0, point.cores, width=BAR_COLUMNS)
        mark = "  least" if point is curve.cheapest else ""
        style = "bold green" if mark else ""
        chart.add_row(
            document.short(point.threshold),
            bar,
            f"{document.short(point.cores)}{mark}",
            style=style,
        )
    out.print(chart)
    title = "cores by role, bytes in all copies and caches; timelines of a page: pulled, read"
    out.print(table_of(document.sweep_rows(curve), title))
    least = curve.cheapest
    out.print(
        f"least cores: {document.short(least.cores)} at a threshold of"
        f" {document.short(least.threshold)}; least bytes:"
        f" {document.quantity(curve.smallest.held_bytes, 'bytes')} at"
        f" {document.short(curve.smallest.threshold)}",
        markup=False,
        soft_wrap=True,
    )


def as_dict(
    workload: Workload, figures: Figures, plans: list[Plan], curve: Sweep | None
) -> dict[str, Any]:
    """Everything, with the units of lines and figures."""
    answer: dict[str, Any] = {
        "workload": workload.values(),
        "figures": {one.name: one._asdict() for one in figures},
        "units": {step.line.name: step.line.unit for step in plans[0].steps},
        "plans": [
            {
                "scale": made.scale,
                "values": made.values(),
                "roles": [role._asdict() for role in made.roles()],
                "bottlenecks": [
                    {
                        "resource": one.resource.name,
                        "unit": one.resource.unit,
                        "demand": one.demand,
                        "bound": one.bound,
                        "ratio": one.ratio,
                    }
                    for one in bottleneck.uses(made, figures)
                ],
            }
            for made in plans
        ],
    }
    if curve is not None:
        answer["sweep"] = {
            "points": [point._asdict() for point in curve.points],
            "cheapest": curve.cheapest._asdict(),
            "smallest": curve.smallest._asdict(),
        }
    return answer
