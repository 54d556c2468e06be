"""`doctor`: what works, what does not, and how to mend it.

Not for the probes: each engine's are beside its adapter (`adapters/*/probe.py`), and
`feedcore.compose.probes` puts those of a profile together. Here they are shown.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import click
from rich import box
from rich.table import Table
from rich.text import Text

from feedcore.cli.client import examples, out
from feedcore.cli.cluster import quiet_drivers
from feedcore.cli.serving import settings_options
from feedcore.clock import SystemClock
from feedcore.compose.probes import diagnose
from feedcore.config import Loaded
from feedcore.ports.finding import Finding, State

TIMEOUT_S_DEFAULT = 2.0
TIMEOUT_S_MAX = 60.0
EXIT_DOWN = 1
_STYLES = {State.OK: "green", State.WARN: "yellow", State.DOWN: "bold red"}


@click.command(
    epilog=examples(
        "feedcore doctor",
        "feedcore doctor --config cluster.toml",
        "feedcore doctor --config cluster.toml --json --timeout 5",
    )
)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0.1, TIMEOUT_S_MAX),
    default=TIMEOUT_S_DEFAULT,
    show_default=True,
    help="Seconds that each probe may take; all run concurrently.",
)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@settings_options
def doctor(timeout_s: float, as_json: bool, loaded: Loaded) -> int:
    """Ask everything that a server needs whether it works, and say how to mend what does not.

    With the settings that a server would have: of the embedded profile the data directory, of the
    cluster profile Cassandra, Redis, Kafka and the collaborators. Beside running servers, at any
    time: nothing is changed, but one row that goes by itself. Exit code 1 if something is down;
    warnings leave it 0.
    """
    settings = loaded.settings
    quiet_drivers()
    findings = asyncio.run(diagnose(settings, SystemClock(), timeout_s))
    if as_json:
        click.echo(json.dumps(document(settings.store.profile, findings), indent=2))
    else:
        out.print(table(findings))
        out.print(verdict(findings))
    return EXIT_DOWN if any(one.state is State.DOWN for one in findings) else 0


def table(findings: Sequence[Finding]) -> Table:
    """One line a finding; how to mend it below it."""
    made = Table(box=box.SIMPLE_HEAD)
    for name in ("", "engine", "what"):
        made.add_column(name, no_wrap=True)
    made.add_column("ms", justify="right", no_wrap=True)
    made.add_column("found", ratio=1)
    for one in findings:
        ms = "" if one.ms is None else f"{one.ms:.1f}"
        found = Text(one.detail)
        if one.mend:
            found.append(f"\n-> {one.mend}" if one.detail else f"-> {one.mend}")
        state = Text("DOWN" if one.state is State.DOWN else one.state, _STYLES[one.state])
        made.add_row(state, one.engine, Text(one.what), ms, found)
    return made


def verdict(findings: Sequence[Finding]) -> str:
    """The line that somebody reads who was woken up."""
    down = sorted({one.engine for one in findings if one.state is State.DOWN})
    warned = sum(one.state is State.WARN for one in findings)
    also = f"; {warned} to look at by day" if warned else ""
    if down:
        return f"DOWN: {', '.join(down)}{also}"
    return f"all well{also}"


def document(profile: str, findings: Sequence[Finding]) -> dict[str, Any]:
    """For programs; names and states are stable, texts are for people."""
    return {
        "profile": profile,
        "ok": all(one.state is not State.DOWN for one in findings),
        "findings": [one._asdict() for one in findings],
    }
