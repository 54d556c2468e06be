"""Connections to a server, and parameter types that several commands share."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import click
import grpc
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message
from rich.console import Console

from feedcore.config import ServerSettings, split_address

SERVER_DEFAULT = ServerSettings.model_fields["listen"].default
CALL_TIMEOUT_S = 60.0  # an audit of many users takes long; anything else answers in milliseconds
MESSAGE_BYTES_MAX = 16 * 1024 * 1024  # a full page is below 1 MB; a status or a listing, too
ID_MAX = 2**64 - 1

Command = TypeVar("Command", bound=Callable[..., Any])
ID = click.IntRange(1, ID_MAX)
PIPE_COLUMNS = 140  # where the output is no terminal: nothing is cut or folded early
out = Console(highlight=False)
if not out.is_terminal:
    out = Console(highlight=False, width=PIPE_COLUMNS)


class AddressType(click.ParamType):
    """HOST:PORT."""

    name = "HOST:PORT"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            split_address(value)
        except ValueError as error:
            self.fail(f"{value!r} {error}", param, ctx)
        return value


def server_option(command: Command) -> Command:
    """--server HOST:PORT."""
    return click.option(
        "--server",
        type=AddressType(),
        default=SERVER_DEFAULT,
        show_default=True,
        help="Server to call.",
    )(command)


def json_option(command: Command) -> Command:
    """--json: the reply as it is, for scripts."""
    return click.option("--json", "as_json", is_flag=True, help="Print the reply as JSON.")(command)


CHANNEL_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    # A proxy of the environment is for the web, not for a feed server inside the network.
    ("grpc.enable_http_proxy", 0),
]


@contextlib.contextmanager
def connected(server: str) -> Iterator[grpc.Channel]:
    """A channel that is closed again."""
    with grpc.insecure_channel(server, CHANNEL_OPTIONS) as channel:
        yield channel


def print_json(message: Message) -> None:
    """The reply with the names of the .proto files, absent fields included."""
    text = MessageToJson(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    click.echo(text)
