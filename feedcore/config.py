"""Settings: one typed, validated source. Flags win over environment, environment over file, file
over defaults.

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
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from feedcore.errors import ConfigError

ENVIRONMENT_PREFIX = "FEEDCORE_"
# Variables that share the prefix and are no settings: build and test switches, what a client of a
# server with TLS needs, and the name of the file itself.
ENVIRONMENT_FILE = "FEEDCORE_CONFIG"
ENVIRONMENT_SWITCHES = frozenset(
    {
        "FEEDCORE_NO_EXTENSIONS",
        "FEEDCORE_LONG",
        "FEEDCORE_CA",
        "FEEDCORE_CERT",
        "FEEDCORE_KEY",
        ENVIRONMENT_FILE,
    }
)

REGION_MAX = 31  # 5 bits of an id
NODE_MAX = 126  # 7 bits of an id, less the last one, which imports use
WORKERS_MAX = NODE_MAX  # each worker needs its own node number, and a rolling restart one more
PORT_MAX = 65_535
DRAIN_GRACE_S_MAX = 300  # init systems kill after 90 s to 300 s anyway
AGE_S_MAX = 7 * 86_400  # a week; longer is as good as never
CACHE_MB_MAX = 1 << 20  # a terabyte: no machine gives a process more
PUSH_THRESHOLD_MAX = 2**32  # more than there are people
HYSTERESIS_PERCENT_MAX = 50  # more would keep an author pulled that lost half of the followers


def available_cores() -> int:
    """Cores this process may use: containers and taskset give fewer than the machine has."""
    return max(1, min(WORKERS_MAX, len(os.sched_getaffinity(0))))


def split_address(text: str) -> tuple[str, int]:
    """(host, port) of "HOST:PORT" or "[V6]:PORT"; ValueError says what is wrong."""
    host, colon, port = text.rpartition(":")
    if not colon or not host:
        raise ValueError('must be "HOST:PORT", such as 127.0.0.1:50051')
    if not port.isascii() or not port.isdigit() or int(port) > PORT_MAX:
        raise ValueError(f"port must be a number from 0 (any free port) to {PORT_MAX}")
    bracketed = host.startswith("[") and host.endswith("]")
    if ":" in host and not bracketed:
        raise ValueError('an IPv6 host needs brackets, such as "[::1]:50051"')
    return (host[1:-1] if bracketed else host), int(port)


def _address(text: str) -> str:
    split_address(text)
    return text


def _address_or_empty(text: str) -> str:
    return _address(text) if text else text


def _path_or_none(value: Any) -> Any:
    return None if value == "" else value


Address = Annotated[str, AfterValidator(_address)]
OptionalPath = Annotated[Path | None, BeforeValidator(_path_or_none)]
OptionalAddress = Annotated[str, AfterValidator(_address_or_empty)]
HOT = {"hot": True}


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ServerSettings(_Section):
    """The processes that answer calls."""

    listen: Address = Field(
        "127.0.0.1:50051", description="HOST:PORT to serve gRPC on; port 0: any free one"
    )
    workers: int = Field(
        default_factory=available_cores,
        ge=1,
        le=WORKERS_MAX,
        description="API processes on that port; default: the cores this process may use",
    )
    listen_unix: OptionalPath = Field(
        None, description="path of a unix socket to serve gRPC on, too; empty: none"
    )
    transport: Literal["auto", "native", "grpcio"] = Field(
        "auto",
        description="what carries gRPC; auto: native where libnghttp2 allows it, else grpcio",
    )
    tls_certificate: OptionalPath = Field(
        None, description="PEM certificate chain for TLS; empty: no TLS. Reloaded when it changes"
    )
    tls_key: OptionalPath = Field(None, description="PEM key of that certificate")
    tls_client_ca: OptionalPath = Field(
        None, description="PEM authorities; given: every caller must show a certificate of one"
    )
    max_connection_age_s: float = Field(
        1_800.0,
        ge=0,
        le=AGE_S_MAX,
        description="connections end gracefully at this age, +-10 %; 0: never",
    )
    max_connection_age_grace_s: float = Field(
        60.0, ge=0, le=AGE_S_MAX, description="seconds that calls on them get; 0: no limit"
    )
    max_connection_idle_s: float = Field(
        0.0, ge=0, le=AGE_S_MAX, description="connections without a call end after this; 0: never"
    )
    metrics: OptionalAddress = Field(
        "", description="HOST:PORT for Prometheus metrics; empty: none"
    )
    drain_grace_s: float = Field(
        10.0,
        ge=0,
        le=DRAIN_GRACE_S_MAX,
        description="seconds that calls under way get when the server stops",
    )


class StoreSettings(_Section):
    """Where data lives."""

    profile: Literal["embedded"] = Field("embedded", description="which engines keep the data")
    data_dir: Path = Field(Path("./data"), description="directory of the embedded store")


class IdSettings(_Section):
    """The region and node bits of content ids; two nodes that share them would give one id
    twice.
    """

    region: int = Field(0, ge=0, le=REGION_MAX, description="region number in every content id")
    node_base: int = Field(
        0,
        ge=0,
        le=NODE_MAX,
        description="first node number; a server uses one a worker and one for rolling restarts",
    )


class CacheSettings(_Section):
    """What each worker keeps in memory; nothing kept is needed for an answer."""

    pages_mb: int = Field(
        128,
        ge=0,
        le=CACHE_MB_MAX,
        description="megabytes a worker keeps of whole pages, for refreshes and retries; 0: none",
    )
    resident_mb: int = Field(
        512,
        ge=0,
        le=CACHE_MB_MAX,
        description="megabytes a worker keeps of what pages are made from: packed windows,"
        " outboxes, posts; 0: none, every page reads the store",
    )


class FanoutSettings(_Section):
    """Start values of the hot settings (feedcore admin settings)."""

    push_threshold: int = Field(
        10_000,
        ge=0,
        le=PUSH_THRESHOLD_MAX,
        json_schema_extra=HOT,
        description="authors with at least this many followers are pulled; 0: everybody is",
    )
    hysteresis_percent: int = Field(
        10,
        ge=0,
        le=HYSTERESIS_PERCENT_MAX,
        json_schema_extra=HOT,
        description="back to push below threshold * (1 - h/100): authors at the edge do not flap",
    )
    rest_lane_paused: bool = Field(
        False,
        json_schema_extra=HOT,
        description="true: followers not active lately wait for fan-out",
    )
    paused: bool = Field(
        False,
        json_schema_extra=HOT,
        description="true: no fan-out (readers see posts all the same)",
    )


class LoggingSettings(_Section):
    """Logs of the server processes; they go to stderr."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least level written"
    )
    format: Literal["json", "console"] = Field(
        "json", description="json for machines, console for people"
    )


class Settings(_Section):
    """All settings, validated. `Settings()` is the defaults."""

    server: ServerSettings = Field(default_factory=ServerSettings)
    store: StoreSettings = Field(default_factory=StoreSettings)
    ids: IdSettings = Field(default_factory=IdSettings)
    cache: CacheSettings = Field(default_factory=CacheSettings)
    fanout: FanoutSettings = Field(default_factory=FanoutSettings)
    logging: LoggingSettings = Field(default_factory=LoggingSettings)

    @model_validator(mode="after")
    def _nodes_fit(self) -> Settings:
        last = self.ids.node_base + self.server.workers
        if last > NODE_MAX:
            raise ValueError(f"ids.node_base + server.workers is {last}; nodes are 0 to {NODE_MAX}")
        return self

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Settings:
        server = self.server
        if (server.tls_certificate is None) != (server.tls_key is None):
            raise ValueError("server.tls_certificate and server.tls_key: give both or neither")
        if server.tls_client_ca is not None and server.tls_certificate is None:
            raise ValueError("server.tls_client_ca: needs server.tls_certificate and tls_key")
        if server.listen_unix is not None and server.transport == "grpcio":
            raise ValueError("server.listen_unix: only the native transport listens on it")
        return self


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
            text = "" if value is None else str(value)
            if isinstance(value, bool):
                text = text.lower()
            hot = bool((field.json_schema_extra or {}).get("hot"))
            rows.append(
                EffectiveValue(key, text, self.sources.get(key, "default"), hot, field.description)
            )
        return rows


def _fields() -> Iterator[tuple[str, Any]]:
    for section, outer in Settings.model_fields.items():
        for name, field in outer.annotation.model_fields.items():
            yield f"{section}.{name}", field


KEYS = tuple(key for key, _ in _fields())


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
        raise ConfigError(_explain(error, sources)) from error


def _explain(error: ValidationError, sources: Mapping[str, str]) -> str:
    """One line a fault: key, what was seen, its source, and the bound."""
    lines = []
    for fault in error.errors(include_url=False):
        key = ".".join(str(part) for part in fault["loc"][:2])
        message = fault["msg"].removeprefix("Value error, ")
        if not key:
            lines.append(message)
            continue
        seen = str(fault["input"])[:80]
        lines.append(f"{key} = {seen!r} (from {sources.get(key, 'default')}): {message}")
    return "; ".join(lines)


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
