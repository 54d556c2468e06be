"""Settings: precedence, refusal of what is unknown or out of bounds, and where each value came
from.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from feedcore import config
from feedcore.errors import ConfigError


def toml(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "feedcore.toml"
    file.write_text(text)
    return file


def test_defaults_are_valid_and_say_so() -> None:
    loaded = config.load(environ={})
    assert loaded.settings.server.listen == "127.0.0.1:50051"
    assert loaded.settings.server.workers == config.available_cores()
    assert {row.source for row in loaded.effective()} == {"default"}
    assert tuple(row.key for row in loaded.effective()) == config.KEYS


def test_flags_win_over_environment_over_file(tmp_path: Path) -> None:
    file = toml(tmp_path, '[server]\nlisten = "0.0.0.0:1"\nworkers = 3\ndrain_grace_s = 4\n')
    environ = {"FEEDCORE_SERVER__LISTEN": "0.0.0.0:2", "FEEDCORE_SERVER__WORKERS": "5"}
    loaded = config.load({"server.listen": "0.0.0.0:3", "store.data_dir": None}, environ, file)
    server = loaded.settings.server
    assert (server.listen, server.workers, server.drain_grace_s) == ("0.0.0.0:3", 5, 4.0)
    sources = {row.key: row.source for row in loaded.effective()}
    assert sources["server.listen"] == "flag"
    assert sources["server.workers"] == "FEEDCORE_SERVER__WORKERS"
    assert sources["server.drain_grace_s"] == f"file {file}"
    assert sources["store.data_dir"] == "default"


def test_the_file_may_be_named_by_the_environment(tmp_path: Path) -> None:
    file = toml(tmp_path, "[fanout]\npush_threshold = 7\n")
    loaded = config.load(environ={"FEEDCORE_CONFIG": str(file)})
    assert loaded.settings.fanout.push_threshold == 7


UNKNOWN = [
    ({"server.lisen": "x"}, {}, "", ["server.lisen", "server.listen"]),
    (
        {},
        {"FEEDCORE_SERVER__LISEN": "x"},
        "",
        ["FEEDCORE_SERVER__LISEN", "FEEDCORE_SERVER__LISTEN"],
    ),
    (
        {},
        {"FEEDCORE_SERVER_LISTEN": "x"},
        "",
        ["FEEDCORE_SERVER_LISTEN", "FEEDCORE_SERVER__LISTEN"],
    ),
    ({}, {}, "[server]\nwokers = 1\n", ["server.wokers", "file ", "server.workers"]),
    ({}, {}, "[sever]\nworkers = 1\n", ["sever", "file ", "server"]),
    ({}, {}, "workers = 1\n", ["workers", "file "]),
]


@pytest.mark.parametrize(("flags", "environ", "text", "named"), UNKNOWN)
def test_unknown_keys_are_refused_by_name_source_and_nearest(
    tmp_path: Path, flags: dict[str, str], environ: dict[str, str], text: str, named: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load(flags, environ, toml(tmp_path, text) if text else None)
    for word in named:
        assert word in str(caught.value)


OUT_OF_BOUNDS = [
    ("server.workers", "0", "greater than or equal to 1"),
    ("server.workers", "127", "less than or equal to 126"),
    ("server.workers", "many", "valid integer"),
    ("server.listen", "50051", "HOST:PORT"),
    ("server.listen", "localhost:70000", "0 (any free port) to 65535"),
    ("server.listen", "::1:50051", "brackets"),
    ("server.metrics", "9090", "HOST:PORT"),
    ("server.transport", "carrier-pigeon", "grpcio"),
    ("server.drain_grace_s", "nan", "finite"),
    ("ids.region", "32", "less than or equal to 31"),
    ("ids.node_base", "127", "less than or equal to 126"),
    ("fanout.push_threshold", "-1", "greater than or equal to 0"),
    ("fanout.hysteresis_percent", "51", "less than or equal to 50"),
    ("logging.level", "loud", "debug"),
]


@pytest.mark.parametrize(("key", "value", "bound"), OUT_OF_BOUNDS)
def test_bounds_name_key_source_and_bound(key: str, value: str, bound: str) -> None:
    variable = config.environment_name(key)
    with pytest.raises(ConfigError) as caught:
        config.load(environ={variable: value})
    for word in (key, variable, value, bound):
        assert word in str(caught.value)


def test_workers_need_node_numbers() -> None:
    with pytest.raises(ConfigError, match="ids.node_base"):
        config.load({"ids.node_base": 125, "server.workers": 2}, {})
    config.load({"ids.node_base": 124, "server.workers": 2}, {})


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="absent.toml"):
        config.load(environ={}, file=tmp_path / "absent.toml")
    with pytest.raises(ConfigError, match="not TOML"):
        config.load(environ={}, file=toml(tmp_path, "[server\n"))


def test_settings_survive_json() -> None:
    settings = config.load({"server.workers": 2, "store.data_dir": "/somewhere"}, {}).settings
    assert config.Settings.model_validate_json(settings.model_dump_json()) == settings


def test_hot_settings_are_marked() -> None:
    hot = {row.key for row in config.load(environ={}).effective() if row.hot}
    assert hot == {key for key in config.KEYS if key.startswith("fanout.")}


def test_other_tools_may_share_the_prefix() -> None:
    config.load(
        environ={"FEEDCORE_NO_EXTENSIONS": "1", "FEEDCORE_LONG": "1", "FEEDCORE_COLOUR": "blue"}
    )
