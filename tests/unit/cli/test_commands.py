"""The command line without a server: help, usage errors, exit codes, settings."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest

from feedcore.cli import main
from feedcore.cli.app import root
from feedcore.cli.load import TimeType

Captured = pytest.CaptureFixture[str]


def commands(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every command that does something, by its path."""
    found = []
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            found += commands(command, (*path, name))
        else:
            found.append((*path, name))
    return found


@pytest.mark.parametrize("path", commands(root), ids=" ".join)
def test_each_command_has_help_with_a_pasteable_example(
    path: tuple[str, ...], capsys: Captured
) -> None:
    assert main([*path, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"feedcore {' '.join(path)}" in shown.partition("Example")[2], shown


def test_each_command_that_calls_a_server_can_do_so_with_tls() -> None:
    for path in commands(root):
        command: click.Command = root
        for name in path:
            assert isinstance(command, click.Group)
            command = command.commands[name]
        options = {option for parameter in command.params for option in parameter.opts}
        assert ("--server" in options) == ({"--ca", "--cert", "--key"} <= options), path


def test_serve_names_every_transport(capsys: Captured) -> None:
    assert main(["serve", "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("auto", "native", "grpcio"))


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["serv"], 2, ["No such command"]),
        (["feed"], 2, ["USER"]),
        (["feed", "0"], 2, ["USER", "1<=x<="]),
        (["feed", "x"], 2, ["USER", "not a valid integer"]),
        (["feed", "1", "--page-size", "101"], 2, ["--page-size", "1<=x<=100"]),
        (["feed", "1", "--server", "nowhere"], 2, ["HOST:PORT", "unix:PATH"]),
        (["feed", "1", "--server", "unix:"], 2, ["unix:PATH"]),
        (["feed", "1", "--ca", "absent.pem"], 2, ["absent.pem", "does not exist"]),
        (["feed", "1", "--ca", __file__, "--cert", __file__], 2, ["--cert and --key"]),
        (["feed", "1", "--cert", __file__, "--key", __file__], 2, ["--ca"]),
        (["load"], 2, ["--follows"]),
        (["load", "--follows", "absent"], 2, ["absent", "does not exist"]),
        (["load", "--posts", __file__, "--rebase-newest-to", "soon"], 2, ["now", "2026-01-31"]),
        (["load", "--posts", __file__, "--server", "a:1", "--data-dir", "d"], 2, ["exclude"]),
        (["admin", "replay"], 2, ["--all"]),
        (["admin", "ranking", "--set", "half_life=1"], 2, ["half_life_hours"]),
        (
            ["feed", "1", "--server", "127.0.0.1:1"],
            1,
            ["no answer from the server", "feedcore serve"],
        ),
        (["serve", "--workers", "0"], 2, ["server.workers", "flag", "greater than or equal to 1"]),
        (["serve", "--set", "server.wokers=1"], 2, ["server.wokers", "server.workers"]),
        (["serve", "--set", "server.workers"], 2, ["KEY=VALUE"]),
        (["serve", "--config", "absent.toml"], 2, ["absent.toml"]),
        (["serve", "--tls-key", "k"], 2, ["server.tls_certificate", "both or neither"]),
        (["serve", "--tls-client-ca", "c"], 2, ["server.tls_client_ca", "tls_certificate"]),
        (
            ["serve", "--listen-unix", "s", "--transport", "grpcio"],
            2,
            ["server.listen_unix", "native"],
        ),
    ],
)
def test_errors_are_one_clear_line(
    arguments: list[str], code: int, words: list[str], capsys: Captured
) -> None:
    assert main(arguments) == code
    shown = capsys.readouterr().err
    assert "Traceback" not in shown
    for word in words:
        assert word in shown


def test_debug_shows_the_traceback(capsys: Captured) -> None:
    assert main(["--debug", "serve", "--config", "absent.toml"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_config_show_names_values_and_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    file = tmp_path / "feedcore.toml"
    file.write_text("[fanout]\npush_threshold = 77\n")
    monkeypatch.setenv("FEEDCORE_SERVER__WORKERS", "3")
    arguments = ["config", "show", "--config", str(file), "--listen", "127.0.0.1:7", "--json"]
    assert main(arguments) == 0
    rows = {row["key"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["server.listen"]["value"] == "127.0.0.1:7"
    assert rows["server.listen"]["source"] == "flag"
    assert rows["server.workers"]["source"] == "FEEDCORE_SERVER__WORKERS"
    assert rows["fanout.push_threshold"] == {
        "key": "fanout.push_threshold",
        "value": "77",
        "source": f"file {file}",
        "hot": True,
        "description": rows["fanout.push_threshold"]["description"],
    }
    assert main(arguments[:-1]) == 0
    assert "server.listen" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("1700000000000", 1_700_000_000_000),
        ("2023-11-14T22:13:20Z", 1_700_000_000_000),
        ("2023-11-14T22:13:20", 1_700_000_000_000),
        ("2023-11-14T23:13:20+01:00", 1_700_000_000_000),
        ("2023-11-14", 1_699_920_000_000),
    ],
)
def test_times_as_people_write_them(text: str, ms: int) -> None:
    assert TimeType().convert(text, None, None) == ms
