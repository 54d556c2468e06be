"""What commands share: connections to a server, options, and how a reply is shown.

A `Server` is where to call and what TLS needs; commands get it from `server_option` and hand it to
`call` or `connected`. On a unix socket there is no TLS, whatever the options say:
the permissions of its folder decide who may call. A command that shows one reply returns an
`Answer` and is decorated with `json_option`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import click
import grpc
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message
from rich.console import Console

from feedcore.config import ENVIRONMENT_PREFIX, ServerSettings, split_address
from feedcore.limits import USER_ID_MAX

SERVER_DEFAULT = ServerSettings.model_fields["listen"].default
CALL_TIMEOUT_S = 60.0  # an audit of many users takes long; anything else answers in milliseconds
MESSAGE_BYTES_MAX = 16 * 1024 * 1024  # a full page is below 1 MB; a status or a listing, too
UNIX = "unix:"

Command = TypeVar("Command", bound=Callable[..., Any])
ID = click.IntRange(1, USER_ID_MAX)
PEM = click.Path(exists=True, dir_okay=False, path_type=Path)
PIPE_COLUMNS = 140  # where the output is no terminal: nothing is cut or folded early
out = Console(highlight=False)
if not out.is_terminal:
    out = Console(highlight=False, width=PIPE_COLUMNS)


class Server(NamedTuple):
    """`address` is HOST:PORT or unix:PATH. `ca`: PEM authorities; given: TLS. `cert` and `key`: for
    a server that asks its callers for a certificate."""

    address: str
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    @property
    def credentials(self) -> grpc.ChannelCredentials | None:
        """For a channel; None without TLS. Raises OSError."""
        if self.ca is None or self.address.startswith(UNIX):
            return None
        return grpc.ssl_channel_credentials(
            self.ca.read_bytes(),
            self.key.read_bytes() if self.key else None,
            self.cert.read_bytes() if self.cert else None,
        )


class AddressType(click.ParamType):  # type: ignore[type-arg]  # older click: no generic
    """HOST:PORT or unix:PATH."""

    name = "HOST:PORT"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value.startswith(UNIX) and value != UNIX:
            return value
        try:
            split_address(value)
        except ValueError as error:
            self.fail(f"{value!r} {error}, or unix:PATH", param, ctx)
        return value


def server_option(command: Command) -> Command:
    """--server, and --ca, --cert and --key for TLS; the command gets one `server`."""

    @functools.wraps(command)
    def with_server(*args: Any, server: str, **others: Any) -> Any:
        ca, cert, key = (others.pop(name) for name in ("ca", "cert", "key"))
        if (cert is None) != (key is None):
            raise click.UsageError("--cert and --key: give both or neither")
        if cert is not None and ca is None:
            raise click.UsageError("--cert: needs --ca, the authority of the server")
        return command(*args, server=Server(server, ca, cert, key), **others)

    decorated: Any = with_server
    for name, meaning in (
        ("key", "Key of that certificate."),
        ("cert", "Our certificate, for a server that asks for one."),
        ("ca", "Speak TLS; trust these authorities (PEM)."),
    ):
        variable = f"{ENVIRONMENT_PREFIX}{name.upper()}"
        decorated = click.option(
            f"--{name}", type=PEM, envvar=variable, show_envvar=True, help=meaning
        )(decorated)
    option = click.option(
        "--server",
        type=AddressType(),
        default=SERVER_DEFAULT,
        show_default=True,
        help="Server to call; also unix:PATH.",
    )
    return cast(Command, option(decorated))


class Answer(NamedTuple):
    """A reply, what people see of it (lines of text, or what rich renders), and the exit code."""

    reply: Message
    shown: Sequence[Any]
    code: int = 0


def json_option(command: Callable[..., Answer]) -> Any:
    """--json: the reply as it is, for scripts; without it, what the answer shows."""

    @functools.wraps(command)
    def with_json(*args: Any, as_json: bool, **others: Any) -> int:
        answer = command(*args, **others)
        if as_json:
            print_json(answer.reply)
            return answer.code
        for part in answer.shown:
            click.echo(part) if isinstance(part, str) else out.print(part)
        return answer.code

    option = click.option("--json", "as_json", is_flag=True, help="Print the reply as JSON.")
    return option(with_json)


def examples(*lines: str) -> str:
    """The epilog of a command's help: command lines to paste."""
    return "\n  ".join(("\b\nExamples:" if len(lines) > 1 else "\b\nExample:", *lines))


CHANNEL_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    # A proxy of the environment is for the web, not for a feed server inside the network.
    ("grpc.enable_http_proxy", 0),
]


def connected(server: Server, library: Any = grpc) -> Any:
    """A channel, closed at the end of its `with`; `library` grpc.aio: of its `async with`."""
    if (credentials := server.credentials) is None:
        return library.insecure_channel(server.address, CHANNEL_OPTIONS)
    return library.secure_channel(server.address, credentials, CHANNEL_OPTIONS)


def call(
    server: Server, stub: type, method: str, request: Message, timeout_s: float = CALL_TIMEOUT_S
) -> Any:
    """The reply to one call, over a channel of its own. Raises grpc.RpcError."""
    with connected(server) as channel:
        return getattr(stub(channel), method)(request, timeout=timeout_s)


def print_json(message: Message) -> None:
    """The reply with the names of the .proto files, absent fields included."""
    text = MessageToJson(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    click.echo(text)
