"""The root command and the one place where errors become a line and an exit code."""

from __future__ import annotations

import sys
import traceback
from importlib.metadata import entry_points

import click
import grpc
from rich.console import Console

from feedcore import __version__
from feedcore.cli import (
    admin,
    cluster,
    doctor,
    feed,
    load,
    migrate_data,
    offline,
    serving,
)
from feedcore.errors import ConfigError, Fault, FeedcoreError

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130  # what shells report for SIGINT

EXAMPLES = """
\b
Examples:
  feedcore serve --data-dir ./data
  feedcore demo
  feedcore feed 42
  feedcore post 42 "Hello"
  feedcore admin status
"""


@click.group(epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(__version__, prog_name="feedcore")
def root(debug: bool) -> None:
    """feedcore: publish posts, fan them out, serve ranked home feeds."""


for command in (
    serving.serve,
    serving.serve_collaborators,
    serving.config,
    load.load,
    load.demo,
    feed.feed,
    feed.post,
    feed.follow,
    feed.unfollow,
    feed.ping,
    admin.admin,
    admin.audit,
    offline.rebuild,
    offline.backup,
    offline.restore,
    cluster.migrate,
    doctor.doctor,
    migrate_data.migrate_data,
):
    root.add_command(command)

# Commands of packages beside the product: `plan` (tools/), `bench` (benchmarks/).
EXTRA_COMMANDS = "feedcore.commands"
for point in sorted(entry_points(group=EXTRA_COMMANDS), key=lambda one: one.name):
    root.add_command(point.load(), point.name)


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        return root.main(arguments, prog_name="feedcore", standalone_mode=False) or 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return EXIT_INTERRUPTED
    except Exception as error:  # the outermost frame: a line for people, the traceback on demand
        if "--debug" in arguments:
            traceback.print_exc()
        Console(stderr=True, soft_wrap=True).print(f"error: {describe(error)}", markup=False)
        usage = isinstance(error, ConfigError) or getattr(error, "fault", None) == Fault.CALLER
        return EXIT_USAGE if usage and isinstance(error, FeedcoreError) else EXIT_FAILED


def describe(error: BaseException) -> str:
    """One line for people."""
    if isinstance(error, grpc.RpcError) and hasattr(error, "code"):
        if error.code() == grpc.StatusCode.UNAVAILABLE:
            return (
                f"no answer from the server: {error.details()} (is `feedcore serve` running there?)"
            )
        return f"{error.code().name.lower()}: {error.details()}{_reason(error)}"
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(describe(inner) for inner in error.exceptions)
    if isinstance(error, FeedcoreError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return f"{type(error).__name__}: {error} (--debug shows where)"


def _reason(error: grpc.RpcError) -> str:
    """The word that code can match, from the details of the server's status."""
    from google.rpc.error_details_pb2 import ErrorInfo
    from grpc_status import rpc_status

    try:
        status = rpc_status.from_call(error)
    except ValueError:  # details of something else between us and the server
        return ""
    info = ErrorInfo()
    for detail in status.details if status is not None else ():
        if detail.Unpack(info):
            return f" [{info.reason}]"
    return ""
