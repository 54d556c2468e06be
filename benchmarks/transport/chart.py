"""The picture: replies a second of each server, one panel a row of the matrix, as plain SVG.

Made from a run's results, without a drawing library: boxes and text are all it has.
"""

from __future__ import annotations

from xml.sax.saxutils import escape

from benchmarks.transport.matrix import MAIN_SIZE, Row, size_name
from benchmarks.transport.results import Results

WIDTH = 860
LABEL_X, BAR_X, BAR_WIDTH = 160, 170, 560
LINE, BAR, PANEL_TITLE, PANEL_GAP, TOP, BOTTOM = 20, 14, 24, 14, 62, 34
OURS, OTHERS, INK, FAINT = "#1f6feb", "#a7b0ba", "#1f2328", "#656d76"
FONT = "font-family='system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif'"


def _text(x: float, y: float, text: str, size: int, fill: str = INK, more: str = "") -> str:
    return (
        f"<text x='{x:g}' y='{y:g}' font-size='{size}' fill='{fill}' {more}>{escape(text)}</text>"
    )


def _panel(results: Results, row: Row, top: float) -> tuple[list[str], float]:
    """Parts of one panel and where it ends."""
    rates = {
        one["name"]: rate
        for one in results.contestants
        if (rate := results.median(one["name"], row, MAIN_SIZE, "replies_s")) is not None
    }
    if not rates:
        return [], top
    ours = {one["name"] for one in results.contestants if one["ours"]}
    title = f"{row.name}: {row.connections} connections, {row.streams} streams each"
    if row.connections == 1:
        title = f"{row.name}: one connection, one call at a time"
    parts = [_text(LABEL_X + 10, top + 15, title, 13, INK, "font-weight='600'")]
    y, most = top + PANEL_TITLE, max(rates.values())
    for name, rate in rates.items():
        fill = OURS if name in ours else OTHERS
        width = max(1.0, BAR_WIDTH * rate / most)
        middle = y + BAR - 3
        parts.append(_text(LABEL_X, middle, name, 12, INK, "text-anchor='end'"))
        parts.append(
            f"<rect x='{BAR_X}' y='{y:g}' width='{width:.1f}' height='{BAR}' rx='2' fill='{fill}'/>"
        )
        parts.append(_text(BAR_X + width + 6, middle, f"{rate:,.0f}", 12, FAINT))
        y += LINE
    return parts, y + PANEL_GAP


def draw(results: Results) -> str:
    """The whole picture."""
    parts, y = [], float(TOP)
    for row in results.rows():
        panel, y = _panel(results, row, y)
        parts += panel
    height = y + BOTTOM
    head = [
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{WIDTH}' height='{height:g}' "
        f"viewBox='0 0 {WIDTH} {height:g}' role='img' {FONT}>",
        f"<title>Replies a second of {escape(', '.join(results.names()))}</title>",
        f"<rect width='{WIDTH}' height='{height:g}' fill='#ffffff'/>",
        _text(20, 28, f"Unary calls a second on one core, replies of {size_name(MAIN_SIZE)}", 17),
        _text(20, 48, "h2load on the other core; medians; each panel has its own scale", 12, FAINT),
    ]
    machine = results.machine
    foot = _text(20, height - 14, f"{machine['line']}, {machine['date']}", 11, FAINT)
    return "\n".join([*head, *parts, foot, "</svg>"]) + "\n"
