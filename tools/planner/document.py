"""Plans as rows of text, and the parts of docs/capacity.md that are computed.

Job: one place for the rows that the terminal and the document show, numbers with their units, and
`rewritten`, which renews what stands between marks. Invariants: pure, the same text every time; a
document that `rewritten` leaves as it is says what the code says (a test holds docs/capacity.md to
that). Not for colours and terminals: tools/planner/command.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

from feedcore.errors import InvalidField
from feedcore_planner import bottleneck
from feedcore_planner.capacity import ROLES, SCALE_MAX, Plan, Role, plan
from feedcore_planner.figures import Figure, Figures
from feedcore_planner.sheet import Step
from feedcore_planner.sweep import Point, Sweep, sweep
from feedcore_planner.workload import BOUNDS, DESIGN, Workload

SCALES = (1.0, 5.0, 10.0, 50.0, 100.0)
SIGNIFICANT = 3  # digits: the inputs have no more
UNSURE = ("goal", "assumed")  # figures that a measurement may still move
SENSITIVITY_ROWS = 8  # the others change next to nothing
BAR_CELLS = 40  # the longest bar of the sweep
Rows = list[list[str]]


def short(value: float) -> str:
    """Three significant digits with K, M, B, T: 50 K, 2.13 M, 51.8 B."""
    if not math.isfinite(value):
        return "never"
    return _with_prefix(value, ("", " K", " M", " B", " T"))


def quantity(value: float, unit: str) -> str:
    """The value with its unit; bytes in decimal multiples: 38.1 TB, 2.15 M deliveries/s."""
    if unit.startswith("bytes"):
        text = _with_prefix(value, (" ", " K", " M", " G", " T", " P", " E"))
        return f"{text}B{unit.removeprefix('bytes')}"
    return f"{short(value)} {unit}"


def times(scale: float) -> str:
    """A multiple, without prefixes: 0.037x, 11.1x, 1,510x."""
    rounded = float(f"{scale:.{SIGNIFICANT}g}")
    return f"{rounded:,.0f}x" if rounded >= 100 else f"{rounded:g}x"


def _with_prefix(value: float, prefixes: Sequence[str]) -> str:
    if value == 0:
        return f"0{prefixes[0]}"
    # Rounded first: 999,999 is 1 M, not 1,000 K.
    rounded = float(f"{value:.{SIGNIFICANT}g}")
    step = min(len(prefixes) - 1, max(0, math.floor(math.log10(abs(rounded)) / 3 + 1e-12)))
    scaled = rounded / 1_000**step
    digits = max(0, SIGNIFICANT - 1 - math.floor(math.log10(abs(scaled)) + 1e-12))
    text = f"{scaled:,.{digits}f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text) + prefixes[step]


def percent(ratio: float) -> str:
    """9.1 %, 90 %, 904 %."""
    return f"{ratio * 100:,.1f} %" if ratio < 0.0995 else f"{ratio * 100:,.0f} %"


# Label, line, unit: what the table of a plan shows beside the nodes of each role.
HEAD_ROWS = (
    ("daily users", "users", ""),
    ("feed loads/s, peak", "loads_peak", ""),
    ("posts/s, peak", "posts_peak", ""),
    ("fan-out, deliveries/day", "deliveries_day", ""),
    ("fan-out, deliveries/s, peak", "deliveries_rate", ""),
    ("pulled authors of a page", "pulled_authors", ""),
)
TAIL_ROWS = (
    ("**cores**", "cores", ""),
    ("stored, all copies", "stored_bytes", "bytes"),
    ("of it feeds", "feed_bytes", "bytes"),
    ("resident on feed nodes", "resident_bytes", "bytes"),
    ("shared cache", "cache_bytes", "bytes"),
    ("queue, messages/s", "queue_messages", ""),
    ("queue, jobs kept", "queue_bytes", "bytes"),
    ("deliveries waiting after a peak", "queue_backlog", ""),
)


def plan_rows(plans: Sequence[Plan], figures: Figures) -> Rows:
    """Head and rows: a column for each scale."""
    rows = [["", *(times(made.scale) for made in plans)]]
    rows += [_row(label, line, unit, plans) for label, line, unit in HEAD_ROWS]
    rows.append(["**servers**", *(f"{made['servers']:,.0f}" for made in plans)])
    by_role = [made.roles() for made in plans]
    rows += [
        [f"{name} nodes", *(role_text(roles[number]) for roles in by_role)]
        for number, name in enumerate(ROLES)
    ]
    rows += [_row(label, line, unit, plans) for label, line, unit in TAIL_ROWS]
    by_plan = [bottleneck.uses(made, figures) for made in plans]
    rows.append(["**first bottleneck**", *(found[0].resource.name for found in by_plan)])
    rows.append(["how full it is", *(percent(found[0].ratio) for found in by_plan)])
    rows.append(["above their bounds", *(exceeded(found) for found in by_plan)])
    return rows


def exceeded(found: Sequence[bottleneck.Use]) -> str:
    """How many resources are full, of how many."""
    return f"{sum(one.ratio > 1.0 for one in found)} of {len(found)}"


def role_text(role: Role) -> str:
    """Nodes, and what asks for them where that may differ."""
    return f"{role.nodes:,} ({role.binds})" if len(ROLES[role.name][1]) > 1 else f"{role.nodes:,}"


def _row(label: str, line: str, unit: str, plans: Sequence[Plan]) -> list[str]:
    return [label, *(quantity(made[line], unit) if unit else short(made[line]) for made in plans)]


def bottleneck_rows(made: Plan, workload: Workload, figures: Figures) -> Rows:
    """Each resource, its bound, and the scale at which it is full; the fullest first."""
    rows = [["resource", f"at {times(made.scale)}", "bound", "used", "full at", "why"]]
    for one in bottleneck.uses(made, figures):
        resource = one.resource
        rows.append(
            [
                resource.name,
                quantity(one.demand, resource.unit),
                quantity(one.bound, resource.unit),
                percent(one.ratio),
                full_text(resource, workload, figures),
                resource.reason,
            ]
        )
    return rows


def full_text(resource: bottleneck.Resource, workload: Workload, figures: Figures) -> str:
    """The scale at which it is full; `any` or `never` where scale is not what fills it."""
    full = bottleneck.full_at(resource, workload, figures)
    if not resource.grows:
        return "never" if math.isinf(full) else "any"
    return f"above {times(SCALE_MAX)}" if math.isinf(full) else times(full)


def remedy_rows() -> Rows:
    """What one does about each bottleneck."""
    return [["resource", "what one does"]] + [
        [resource.name, resource.remedy] for resource in bottleneck.RESOURCES
    ]


def one_node_rows(workload: Workload, figures: Figures) -> Rows:
    """What one node of each role carries before a second is needed."""
    rows = [["role", "one node carries, daily users", "then short of"]]
    roles = {role.name: role for role in plan(workload, figures).roles()}
    for name in ROLES:
        scale = bottleneck.one_node_up_to(name, workload, figures)
        rows.append([name, short(scale * workload.daily_users), roles[name].binds])
    return rows


def input_rows(workload: Workload) -> Rows:
    """Every input with unit and meaning."""
    return [["input", "value", "meaning"]] + [
        [name, quantity(value, BOUNDS[name].unit), BOUNDS[name].meaning]
        for name, value in workload.values().items()
    ]


def figure_rows(figures: Figures) -> Rows:
    """Every figure, measured ones first."""
    order = ("measured", "goal", "assumed", "defined")
    rows = [["figure", "value", "basis", "meaning", "source"]]
    for figure in sorted(figures, key=lambda one: order.index(one.basis)):
        source = figure.source + (f"; `{figure.command}`" if figure.command else "")
        value = quantity(figure.value, figure.unit)
        rows.append([figure.name, value, figure.basis, figure.meaning, source])
    return rows


def sensitivity_rows(workload: Workload, figures: Figures) -> Rows:
    """Cores with each figure that is not measured at half and at twice its value; what matters most
    is on top. Before rounding and spares."""
    now = plan(workload, figures)["needed_cores"]
    found = []
    for figure in figures:
        if figure.basis in UNSURE:
            changed = [
                plan(workload, figures.replace(**{figure.name: value}))["needed_cores"] / now - 1.0
                for value in (figure.value / 2.0, _doubled(figure))
            ]
            found.append((max(map(abs, changed)), figure, changed))
    found.sort(key=lambda row: (-row[0], row[1].name))
    return [["figure", "value", "basis", "cores if half", "cores if twice"]] + [
        [
            figure.name,
            quantity(figure.value, figure.unit),
            figure.basis,
            *(f"{change * 100:+.0f} %" for change in changed),
        ]
        for most, figure, changed in found[:SENSITIVITY_ROWS]
    ]


def _doubled(figure: Figure) -> float:
    """Twice the value; a share ends half way to 1 where that is less."""
    if figure.unit != "share":
        return figure.value * 2.0
    return min(figure.value * 2.0, (1.0 + figure.value) / 2.0)


def step_text(step: Step) -> str:
    """`name = formula = value unit`, then the values that went in."""
    inputs = ", ".join(f"{name} {short(value)}" for name, value in step.inputs.items())
    line = step.line
    text = f"{line.name} = {line.formula} = {quantity(step.value, line.unit)}"
    return text + (f"   [{inputs}]" if inputs else "")


def sweep_rows(made: Sweep) -> Rows:
    """One row a threshold; cores in all and of them those of feed nodes, stores and fan-out; the
    least are marked."""
    rows = [
        [
            "threshold", "cores", "feed", "stores", "fan-out", "held",
            "deliveries/s", "pulled", "read",
        ]
    ]  # fmt: skip
    return rows + [
        [
            short(point.threshold),
            short(point.cores) + (" *" if point is made.cheapest else ""),
            short(point.feed_node_cores),
            short(point.store_cores),
            short(point.fanout_cores),
            quantity(point.held_bytes, "bytes") + (" *" if point is made.smallest else ""),
            short(point.deliveries_rate),
            short(point.pulled_authors),
            short(point.timelines_read),
        ]
        for point in made.points
    ]


def bar(point: Point, made: Sweep, cells: int = BAR_CELLS) -> str:
    """Cores as a bar; the dearest point has all `cells`."""
    dearest = max(one.cores for one in made.points)
    return "#" * max(1, round(cells * point.cores / dearest))


def markdown(rows: Rows) -> str:
    """A Markdown table; the first row is its head."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])


def sweep_text(made: Sweep) -> str:
    """The sweep as a chart and a table."""
    chart = "\n".join(
        f"{short(point.threshold):>6}  {bar(point, made)} {short(point.cores)}"
        + ("   least" if point is made.cheapest else "")
        for point in made.points
    )
    return f"```\n{chart}\n```\n\n{markdown(sweep_rows(made))}"


def derivation_text(made: Plan) -> str:
    """Each line with its formula and value, under its group."""
    parts: list[str] = []
    group = ""
    for step in made.steps:
        if step.line.group != group:
            group = step.line.group
            parts.append(f"{'' if not parts else chr(10)}{group}")
        meaning = f"   ({step.line.meaning})" if step.line.meaning else ""
        value = quantity(step.value, step.line.unit)
        parts.append(f"  {step.line.name} = {step.line.formula} = {value}{meaning}")
    return "```\n" + "\n".join(parts) + "\n```"


def summary_text(first: Plan, figures: Figures) -> str:
    """What the tables say, in four sentences."""
    fullest = bottleneck.uses(first, figures)[0].resource
    full = [
        (bottleneck.full_at(resource, DESIGN, figures), resource.name)
        for resource in bottleneck.RESOURCES
    ]
    order = [f"{name} ({times(scale)})" for scale, name in sorted(full) if math.isfinite(scale)]
    curve = sweep(DESIGN, figures)
    threshold = short(DESIGN.push_threshold)
    return (
        f"{short(DESIGN.daily_users)} daily users ask for {first['servers']:,.0f} servers with"
        f" {short(first['cores'])} cores, {quantity(first['stored_bytes'], 'bytes')} on disk in all"
        f" copies and {quantity(first['resident_bytes'], 'bytes')} resident on feed nodes."
        f" The first bottleneck is {fullest.name}. As users grow, what is full first, and at which"
        f" scale: {', '.join(order)}."
        f" A push threshold of {short(curve.cheapest.threshold)} takes the fewest cores,"
        f" {short(curve.cheapest.cores)}, where {threshold} takes {short(first['needed_cores'])}"
        " (before rounding and spares)."
    )


def blocks(figures: Figures) -> dict[str, Callable[[], str]]:
    """What the document says between its marks, by the name of the mark."""
    first = plan(DESIGN, figures)
    return {
        "summary": lambda: summary_text(first, figures),
        "inputs": lambda: markdown(input_rows(DESIGN)),
        "table": lambda: markdown(
            plan_rows([plan(DESIGN, figures, scale) for scale in SCALES], figures)
        ),
        "bottlenecks": lambda: markdown(bottleneck_rows(first, DESIGN, figures)),
        "remedies": lambda: markdown(remedy_rows()),
        "one-node": lambda: markdown(one_node_rows(DESIGN, figures)),
        "derivation": lambda: derivation_text(first),
        "sensitivity": lambda: markdown(sensitivity_rows(DESIGN, figures)),
        "sweep": lambda: sweep_text(sweep(DESIGN, figures)),
        "figures": lambda: markdown(figure_rows(figures)),
    }


def rewritten(text: str, figures: Figures) -> str:
    """The document with everything between `<!-- plan:NAME -->` and `<!-- end -->` renewed, for the
    design's workload. Raises InvalidField if a mark is missing or unknown."""
    made = blocks(figures)
    mark = re.compile(r"(<!-- plan:([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
    names = [found[2] for found in mark.finditer(text)]
    if sorted(names) != sorted(made):
        seen = ", ".join(names) or "none"
        raise InvalidField("marks of the document", seen, f"each once: {', '.join(made)}")
    return mark.sub(lambda found: found[1] + made[found[2]]() + "\n" + found[3], text)
