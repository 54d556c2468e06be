"""Every metric, label, command and option that docs/ and deploy/ name exists.

The figures of a server, and what to type, are read at night: a name that is almost right costs more
than none. CHANGELOG.md tells of names that are gone, and is not read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from prometheus_client.metrics import MetricWrapperBase

from feedcore.cli.app import root
from feedcore.observe import metrics
from feedcore.ports import Lane
from feedcore_pb.collaborators.v1 import content_pb2, graph_pb2, ranking_pb2
from feedcore_pb.v1 import admin_pb2, feed_pb2, publish_pb2
from feedcore_server.status import _BY_NAME as STATUSES

TOP = Path(__file__).parents[2]
TEXTS = sorted(
    [
        *(TOP / "docs").rglob("*.md"),
        *(file for file in (TOP / "deploy").rglob("*") if file.is_file()),
        *(
            TOP / name
            for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md")
        ),
    ]
)
PACKAGES = {"feedcore_pb", "feedcore_server", "feedcore_bench", "feedcore_planner"}
MODULES = (admin_pb2, feed_pb2, publish_pb2, content_pb2, graph_pb2, ranking_pb2)
PRINTED = ("ready", "metrics")  # "feedcore ready on ...": what a server says, not what is typed
# The values of labels that texts filter by. A label that is missing here fails the test.
VALUES = {
    "status": set(STATUSES),
    "operation": {
        method.name
        for module in MODULES
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    },
    "lane": {lane.name.lower() for lane in Lane},
    "result": {"hit", "miss", "stale", "sent", "dropped"},
    "job": {"feedcore"},  # of deploy/prometheus.yml
}


def declared() -> dict[str, tuple[str, ...]]:
    """Sample name -> label names, of every metric."""
    found: dict[str, tuple[str, ...]] = {
        "up": ("job", "instance"),  # Prometheus's own
        "feedcore_restarts_total": ("role",),  # made by `metrics.restarts`, for one registry
    }
    for one in vars(metrics).values():
        if isinstance(one, MetricWrapperBase):
            labels = tuple(one._labelnames)
            name = one._name
            if one._type == "counter":
                found[f"{name}_total"] = labels
            else:
                found[name] = labels
            if one._type == "histogram":
                found[f"{name}_bucket"] = (*labels, "le")
                found[f"{name}_count"] = found[f"{name}_sum"] = labels
    return found


METRICS = declared()


def wrong_metrics(text: str) -> list[str]:
    """What is wrong with the metrics a text names: nothing, if they exist."""
    found = []
    for name, star in re.findall(r"\b(feedcore_[a-z0-9_]+)(\*?)", text):
        if name in PACKAGES or name in METRICS:
            continue
        if not (star and any(one.startswith(name) for one in METRICS)):
            found.append(f"{name}: no such metric")
    for name, braces in re.findall(r"\b(feedcore_[a-z0-9_]+|up)\{([^{}]*)\}", text):
        for part in braces.replace("\\", "").split(","):
            label, sign, value = re.fullmatch(r"\s*(\w+)\s*(=~|!~|!=|=)?(.*)", part).groups()
            if label not in METRICS.get(name, ()):
                found.append(f"{name}: no label {label}")
            elif sign:
                values = set(value.strip().strip('"').split("|"))
                if not values <= VALUES.get(label, set()):
                    found.append(f"{name}: {label} is never {values - VALUES.get(label, set())}")
    return found


def typed(path: Path) -> Iterator[str]:
    """What a text says to type: code of Markdown, and what alerts advise."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        yield from re.findall(r"`([^`\n]+)`", text)
        yield from re.findall(r"^ {4,}(.*)$", text, re.MULTILINE)
        for block in re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            yield from block.splitlines()
    elif path.name == "alerts.yml":
        yield from re.findall(r'action: "([^"]*)"', text)


def wrong_commands(line: str) -> list[str]:
    """What is wrong with the `feedcore` commands in a line: nothing, if they exist."""
    found = []
    for words in re.findall(r"(?:^|[\s/(;])feedcore((?: +[^\s|;&>#,]+)+)", line):
        if words.split()[0] in PRINTED:
            continue
        command: click.Command = root
        seen = ["feedcore"]
        for word in words.split():
            if isinstance(command, click.Group) and re.fullmatch(r"[a-z][a-z-]*", word):
                if word not in command.commands:
                    found.append(f"{' '.join(seen)}: no command {word}")
                    break
                command = command.commands[word]
                seen.append(word)
            elif word.startswith("--"):
                options = {
                    name for one in command.params for name in (*one.opts, *one.secondary_opts)
                }
                if word.split("=")[0].strip("[]`") not in options | {"--help", "--version"}:
                    found.append(f"{' '.join(seen)}: no option {word}")
    return found


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(TOP)))
def test_what_a_text_names_exists(path: Path) -> None:
    found = wrong_metrics(path.read_text(encoding="utf-8"))
    found += [wrong for line in typed(path) for wrong in wrong_commands(line)]
    assert found == []


@pytest.mark.parametrize(
    "text",
    [
        "feedcore_call_total",
        "feedcore_cash_*",
        'feedcore_calls_total{status="INTERNAL"}',
        'feedcore_calls_total{status!=\\"OK\\"}',
        'feedcore_calls_total{status=~"internal|unavailible"}',
        'feedcore_fast_calls_total{le="1"}',
        "feedcore_feed_answers_total{operation, sources}",
    ],
)
def test_metrics_that_are_almost_right_are_noticed(text: str) -> None:
    assert len(wrong_metrics(text)) == 1


@pytest.mark.parametrize(
    "line",
    [
        "feedcore stat",
        "feedcore admin settings --rest-lane-paused true",
        "feedcore admin deadletters",
        ".venv/bin/feedcore serve --data ./data",
        "more nodes, or feedcore admin setings --pause-rest-lane",
    ],
)
def test_commands_that_are_almost_right_are_noticed(line: str) -> None:
    assert len(wrong_commands(line)) == 1
