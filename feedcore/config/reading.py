"""Reads settings: flags win over environment, environment over file, file over defaults.

Job: read the three sources, refuse what is unknown or out of bounds with the key, the source and
the bound, and remember where each value came from (`effective`). Invariants: a `Settings` object is
always valid and never changes; a key has one name everywhere: `section.key` in flags and TOML (as
`[section]`), `FEEDCORE_SECTION__KEY` in the environment. Not for: values that operators change
while the engine runs. The keys marked *hot* are start values only: once an operator has changed
them through the Admin service, the stored value wins for good.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import SecretStr, ValidationError

from feedcore.config.settings import Settings
from feedcore.errors import ConfigError

ENVIRONMENT_PREFIX = "FEEDCORE_"
# Variables that share the prefix and are no settings: build and test switches, what a client of a
# server with TLS needs, and the name of the file itself.
ENVIRONMENT_FILE = "FEEDCORE_CONFIG"
ENVIRONMENT_SWITCHES = frozenset(
    {
        "FEEDCORE_NO_EXTENSIONS",
        "FEEDCORE_LONG",
        "FEEDCORE_REQUIRE_SERVICES",
        "FEEDCORE_KEEP_SERVICES",
        "FEEDCORE_CA",
        "FEEDCORE_CERT",
        "FEEDCORE_KEY",
        ENVIRONMENT_FILE,
    }
)


class EffectiveValue(NamedTuple):
    """One setting: its value as text, where it came from, and whether Admin can change it at run
    time.
    """

    key: str
    value: str
    source: str
    hot: bool
    description: str


class Loaded(NamedTuple):
    """Valid settings and the source of each key that was given ("--listen", "FEEDCORE_...", "file
    ...").
    """

    settings: Settings
    sources: dict[str, str]

    def effective(self) -> list[EffectiveValue]:
        """Every key in declaration order."""
        rows = []
        for key, field in _fields():
            section, name = key.split(".")
            value = getattr(getattr(self.settings, section), name)
            hot = bool((field.json_schema_extra or {}).get("hot"))
            rows.append(
                EffectiveValue(
                    key, _text(value), self.sources.get(key, "default"), hot, field.description
                )
            )
        return rows


def _text(value: Any) -> str:
    """A value for people. A secret is stars."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(value) if isinstance(value, tuple) else str(value)


def _fields() -> Iterator[tuple[str, Any]]:
    for section, outer in Settings.model_fields.items():
        assert outer.annotation is not None  # each section is a class
        for name, field in outer.annotation.model_fields.items():
            yield f"{section}.{name}", field


KEYS = tuple(key for key, _ in _fields())
SECRETS = frozenset(key for key, field in _fields() if field.annotation is SecretStr)


def meaning_of(key: str) -> str:
    """What a setting is, in one sentence."""
    description = str(dict(_fields())[key].description)
    return f"{description[0].upper()}{description[1:]}."


def environment_name(key: str) -> str:
    """`server.listen` -> `FEEDCORE_SERVER__LISTEN`."""
    return ENVIRONMENT_PREFIX + key.replace(".", "__").upper()


def load(
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    file: Path | None = None,
) -> Loaded:
    """Reads all sources. `flags`: key -> value, None for a flag that was not given. Raises
    ConfigError.

    `file` None: the file named by FEEDCORE_CONFIG, if any.
    """
    environ = os.environ if environ is None else environ
    if file is None and environ.get(ENVIRONMENT_FILE):
        file = Path(environ[ENVIRONMENT_FILE])
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    layers = [
        _from_file(file) if file else [],
        _from_environment(environ),
        _from_flags(flags or {}),
    ]
    for layer in layers:
        for key, value, source in layer:
            values[key] = value
            sources[key] = source
    document: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        section, name = key.split(".")
        document.setdefault(section, {})[name] = value
    try:
        return Loaded(Settings.model_validate(document), sources)
    except ValidationError as error:
        # The original holds what was given, secrets among it: it must not reach a log.
        raise ConfigError("; ".join(_explain(error, sources))) from None


def _explain(error: ValidationError, sources: Mapping[str, str]) -> list[str]:
    """One line a fault: key, what was seen, its source, and the bound."""
    lines = []
    for fault in error.errors(include_url=False):
        key = ".".join(str(part) for part in fault["loc"][:2])
        message = fault["msg"].removeprefix("Value error, ")
        if not key:
            lines.append(message)
            continue
        seen = "**********" if key in SECRETS else str(fault["input"])[:80]
        lines.append(f"{key} = {seen!r} (from {sources.get(key, 'default')}): {message}")
    return lines


def _from_flags(flags: Mapping[str, Any]) -> Iterator[tuple[str, Any, str]]:
    for key, value in flags.items():
        if value is None:
            continue
        _require_known(key, f"--set {key}", KEYS)
        yield key, value, "flag"


def _from_environment(environ: Mapping[str, str]) -> Iterator[tuple[str, Any, str]]:
    names = {environment_name(key): key for key in KEYS}
    for name, value in sorted(environ.items()):
        if not name.startswith(ENVIRONMENT_PREFIX) or name in ENVIRONMENT_SWITCHES:
            continue
        # A name without "__" may belong to another tool; it is refused only where it looks like a
        # slip.
        if name in names or "__" in name or difflib.get_close_matches(name, names, 1, 0.9):
            _require_known(name, "the environment", tuple(names))
            yield names[name], value, name


def _from_file(file: Path) -> Iterator[tuple[str, Any, str]]:
    source = f"file {file}"
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{source}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{source} is not TOML: {error}") from error
    for section, table in document.items():
        if section not in Settings.model_fields:
            _require_known(section, source, tuple(Settings.model_fields))
        if not isinstance(table, dict):
            raise ConfigError(
                f"{section} in {source}: must be a table, [{section}], with keys below it"
            )
        for name, value in table.items():
            key = f"{section}.{name}"
            _require_known(key, source, KEYS)
            yield key, value, source


def _require_known(key: str, source: str, known: tuple[str, ...]) -> None:
    if key in known:
        return
    near = difflib.get_close_matches(key, known, 1, 0.4)
    hint = f"; the nearest known key is {near[0]}" if near else f"; known: {', '.join(known)}"
    raise ConfigError(f"unknown key {key} in {source}{hint}")
