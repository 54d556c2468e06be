"""The report as one HTML file with pictures: everything inline, nothing loaded from anywhere.

Pictures are plain SVG: throughput over time, latency by percentile on a log axis, cache tiers, CPU
and memory of each process. Made from a run's results alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from feedcore_bench import report
from feedcore_bench.results import Phase, Results

WIDTH, HEIGHT = 560, 240
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 44, 34
BARS_TOP = 30
LETTER = 6.2  # width of one in the legend, about
COLORS = ("#1f6feb", "#d1732e", "#2b8a5a", "#8250df", "#b3325c", "#656d76")
INK, FAINT, GRID = "#1f2328", "#656d76", "#e4e7ea"
STYLE = """
body { font: 15px/1.5 system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif;
  color: #1f2328; max-width: 1180px; margin: 2em auto; padding: 0 1em; }
table { border-collapse: collapse; margin: 1em 0; font-size: 13px; }
th, td { border: 1px solid #d0d7de; padding: 3px 8px; text-align: left; }
th { background: #f6f8fa; } h2 { margin-top: 2em; border-bottom: 1px solid #d0d7de; }
.short { background: #fff1e5; } .ok { background: #e9f7ee; }
.pictures { display: flex; flex-wrap: wrap; gap: 8px; } svg { max-width: 100%; }
ul { color: #424a53; } code { font-size: 12px; word-break: break-all; }
"""

Line = Sequence[tuple[float, float]]


def _text(x: float, y: float, text: str, anchor: str = "start", fill: str = FAINT) -> str:
    return (
        f"<text x='{x:.1f}' y='{y:.1f}' font-size='11' fill='{fill}' text-anchor='{anchor}'>"
        f"{escape(text)}</text>"
    )


def _short(value: float) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("K", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def _ticks(low: float, high: float, log: bool) -> list[float]:
    if log:
        return [
            10.0**n for n in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        ]
    step = 10.0 ** math.floor(math.log10(max(high - low, 1e-9)))
    step = step / 2 if (high - low) / step < 3 else step
    first = math.ceil(low / step)
    return [step * n for n in range(first, math.floor(high / step) + 1)]


def chart(
    title: str,
    lines: Mapping[str, Line],
    x_name: str,
    y_name: str,
    *,
    log: bool = False,
    x_labels: Sequence[tuple[float, str]] | None = None,
) -> str:
    """Lines over a common axis as SVG; empty if there is nothing to draw. `log`: the y axis."""
    points = [point for line in lines.values() for point in line]
    if len(points) < 2:
        return ""
    x_low, x_high = min(x for x, _ in points), max(x for x, _ in points)
    values = [y for _, y in points if y > 0 or not log]
    y_high = max([*values, 1e-9]) * (1 if log else 1.05)
    y_low = min(values) if log and values else 0.0
    if log:
        y_low = 10.0 ** math.floor(math.log10(y_low))
        y_high = max(10.0 ** math.ceil(math.log10(y_high)), 10 * y_low)

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_low) / (x_high - x_low or 1)
        if log:
            up = math.log10(max(y, y_low) / y_low) / math.log10(y_high / y_low)
        else:
            up = (y - y_low) / (y_high - y_low or 1)
        return (
            LEFT + across * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM),
        )

    parts = [_text(LEFT, 16, title, fill=INK)]
    for tick in _ticks(y_low, y_high, log):
        y = place(x_low, tick)[1]
        if y < TOP - 1:
            continue
        parts.append(
            f"<line x1='{LEFT}' x2='{WIDTH - RIGHT}' y1='{y:.1f}' y2='{y:.1f}' stroke='{GRID}'/>"
        )
        parts.append(_text(LEFT - 6, y + 4, _short(tick), "end"))
    labels = x_labels or [(tick, _short(tick)) for tick in _ticks(x_low, x_high, False)]
    parts += [_text(place(x, y_low)[0], HEIGHT - BOTTOM + 15, name, "middle") for x, name in labels]
    parts.append(_text(WIDTH - RIGHT, HEIGHT - 4, x_name, "end"))
    parts.append(_text(LEFT - 6, 32, y_name, "end"))
    legend_x = float(LEFT)
    for place_of, (name, line) in enumerate(lines.items()):
        color = COLORS[place_of % len(COLORS)]
        path = " ".join("{:.1f},{:.1f}".format(*place(x, y)) for x, y in line)
        parts.append(f"<polyline points='{path}' fill='none' stroke='{color}' stroke-width='1.6'/>")
        parts.append(_text(legend_x, 32, name, fill=color))
        legend_x += 18 + LETTER * len(name)
    size = f"width='{WIDTH}' height='{HEIGHT}' viewBox='0 0 {WIDTH} {HEIGHT}'"
    name = f"<title>{escape(title)}</title>"
    return f"<svg xmlns='http://www.w3.org/2000/svg' {size} role='img'>{name}{''.join(parts)}</svg>"


def bars(title: str, values: Mapping[str, float]) -> str:
    """Horizontal bars, each with its value."""
    shown = {name: value for name, value in values.items() if value > 0}
    if not shown:
        return ""
    most, height = max(shown.values()), BARS_TOP + 20 * len(shown) + 8
    parts = [_text(8, 16, title, fill=INK)]
    for number, (name, value) in enumerate(shown.items()):
        y = BARS_TOP + 20 * number
        width = max(1.0, (WIDTH - 330) * value / most)
        parts.append(_text(228, y + 11, name, "end"))
        parts.append(
            f"<rect x='236' y='{y}' width='{width:.1f}' height='14' fill='{COLORS[0]}' rx='2'/>"
        )
        parts.append(_text(242 + width, y + 11, f"{value:,.0f}"))
    size = f"width='{WIDTH}' height='{height}' viewBox='0 0 {WIDTH} {height}'"
    name = f"<title>{escape(title)}</title>"
    return f"<svg xmlns='http://www.w3.org/2000/svg' {size} role='img'>{name}{''.join(parts)}</svg>"


def percentile_x(percent: float) -> float:
    """Where a percentile lies: each nine takes the same room."""
    return -math.log10(max(1 - percent / 100, 1e-6))


def pictures(phases: Sequence[Phase]) -> list[str]:
    """All pictures of one scenario."""
    latency = {
        phase.name: [(percentile_x(percent), us / 1_000) for percent, us in phase.curve]
        for phase in phases
        if phase.curve
    }
    nines = [(percentile_x(p), f"p{p:g}") for p in (0.0, 50.0, 90.0, 99.0, 99.9, 99.99)]
    made = [
        chart(
            "Calls a second over time",
            {p.name: list(zip(p.series.at, p.series.calls, strict=True)) for p in phases},
            "s",
            "calls/s",
        ),
        chart("Latency by percentile", latency, "percentile", "ms", log=True, x_labels=nines),
    ]
    for phase in phases:
        at = phase.series.at
        cpu = {name: list(zip(at, line, strict=True)) for name, line in phase.series.cpu.items()}
        cpu["others"] = list(zip(at, phase.series.others, strict=True))
        rss = {
            name: [(second, value / 1e6) for second, value in zip(at, line, strict=True)]
            for name, line in phase.series.rss.items()
        }
        made.append(chart(f"CPU, {phase.name}", cpu, "s", "cores"))
        made.append(chart(f"Resident memory, {phase.name}", rss, "s", "MB"))
        made.append(bars(f"Cache tiers, {phase.name}", phase.tiers))
    return [picture for picture in made if picture]


def size_pictures(values: Mapping[str, float]) -> list[str]:
    """Cost against size: loads a second and resident memory by the number of users."""
    found: dict[str, list[tuple[float, float]]] = {"rate": [], "rss_mb": []}
    users = sorted({int(key.split(".")[1]) for key in values if key.startswith("size.")})
    for count in users:
        for name, line in found.items():
            if (value := values.get(f"size.{count}.{name}")) is not None:
                line.append((math.log10(count), value))
    labels = [(math.log10(count), f"{_short(count)} users") for count in users]
    return [
        chart("Loads a second by users", {"loads/s": found["rate"]}, "", "", x_labels=labels),
        chart("Resident memory by users", {"MB": found["rss_mb"]}, "", "", x_labels=labels),
    ]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], judged: bool = False) -> str:
    lines = ["<tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in head) + "</tr>"]
    for row in rows:
        kind = ""
        if judged and row[-1]:
            kind = " class='ok'" if row[-1] == "ok" else " class='short'"
        lines.append(f"<tr{kind}>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>")
    return "<table>" + "".join(lines) + "</table>"


def _from_markdown(lines: Sequence[str]) -> str:
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return _table(cells[0], cells[2:])


def page(results: Results) -> str:
    """The whole file."""
    machine = results.machine
    head = ("scenario", "what", "wanted", "measured", "verdict")
    parts = [
        f"<h1>Load benchmark, {escape(machine['date'])}</h1>",
        "<ul>" + "".join(f"<li>{escape(k)}: {escape(v)}</li>" for k, v in machine.items()),
        "".join(f"<li>{escape(k)}: {escape(str(v))}</li>" for k, v in results.options.items()),
        "</ul>",
        _table(head, report.verdict_rows(results), judged=True),
    ]
    wrong = sum(results.wrong_counts.values())
    parts.append(f"<p>{wrong:,} wrong answers.</p>" if wrong else "<p>No wrong answer.</p>")
    parts += [f"<p><code>{escape(str(one))}</code></p>" for one in results.wrong]
    for scenario in results.scenarios():
        notes = results.notes.get(scenario, [])
        failure = results.failures.get(scenario)
        parts.append(f"<h2>{escape(scenario)}</h2>")
        parts.append("<ul>" + "".join(f"<li>{escape(note)}</li>" for note in notes) + "</ul>")
        if failure:
            parts.append(f"<p class='short'>failed: {escape(failure)}</p>")
        phases = results.of(scenario)
        if phases:
            parts.append(_from_markdown(report.phase_table(phases)))
            shown = pictures(phases)
            if scenario == "size":
                shown = size_pictures(results.values) + shown
            parts.append(f"<div class='pictures'>{''.join(shown)}</div>")
        parts += [
            _from_markdown(report.method_table(phase)) for phase in phases if len(phase.methods) > 1
        ]
    parts.append("<h2>Worlds</h2>")
    for name, world in results.worlds.items():
        facts = ", ".join(f"{key} {value}" for key, value in world.items())
        parts.append(f"<p>{escape(name)}: {escape(facts)}</p>")
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        f"<title>Load benchmark, {escape(machine['date'])}</title><style>{STYLE}</style></head>"
        f"<body>{''.join(parts)}</body></html>\n"
    )
