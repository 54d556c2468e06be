"""`feed`, `post`, `follow`, `unfollow`, `ping`: the calls of a user."""

from __future__ import annotations

import sys

import click
import grpc

from feedcore.cli import render
from feedcore.cli.client import (
    CALL_TIMEOUT_S,
    ID,
    Answer,
    Server,
    call,
    connected,
    examples,
    json_option,
    out,
    print_json,
    server_option,
)
from feedcore.clock import SystemClock
from feedcore.errors import Unavailable
from feedcore.limits import PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX
from feedcore_pb.collaborators.v1 import graph_pb2, graph_pb2_grpc
from feedcore_pb.v1 import feed_pb2, feed_pb2_grpc, publish_pb2, publish_pb2_grpc

NEXT_KEYS = (" ", "\r", "\n")


@click.command(
    epilog=examples(
        "feedcore feed 42",
        "feedcore feed 42 --page-size 50 --once",
        "feedcore feed 42 --json | head",
    )
)
@click.argument("user", type=ID)
@click.option(
    "--page-size",
    type=click.IntRange(1, PAGE_SIZE_MAX),
    default=PAGE_SIZE_DEFAULT,
    show_default=True,
    help="Items a page.",
)
@click.option("--cursor", default="", help="Begin at this cursor (next_cursor of a page).")
@click.option("--once", is_flag=True, help="Print one page and end.")
@click.option("--json", "as_json", is_flag=True, help="Print the reply as JSON.")
@server_option
def feed(user: int, page_size: int, cursor: str, once: bool, as_json: bool, server: Server) -> None:
    """Show the home feed of USER: space or enter for the next page, q to end.

    Where the output is not a terminal, one page is printed.
    """
    paged = not once and not as_json and sys.stdin.isatty() and sys.stdout.isatty()
    first = 1
    with connected(server) as channel:
        stub = feed_pb2_grpc.FeedServiceStub(channel)
        while True:
            request = feed_pb2.GetFeedRequest(user_id=user, page_size=page_size, cursor=cursor)
            page = stub.GetFeed(request, timeout=CALL_TIMEOUT_S)
            if as_json:
                print_json(page)
                return
            out.print(render.page_table(user, page, first, SystemClock().now_ms()))
            out.print(render.receipt_line(page.receipt), markup=False, style="dim")
            first += len(page.items)
            cursor = page.next_cursor
            if not cursor:
                out.print("end of the feed", style="dim")
                return
            if not paged or not wants_next():
                return


def wants_next() -> bool:
    """Waits for a key: True for the next page."""
    click.echo("space: next page, q: end", nl=False)
    while True:
        key = click.getchar()
        if key in NEXT_KEYS or key in ("q", "Q", "\x1b", "\x04"):
            click.echo("\r" + " " * 30 + "\r", nl=False)
            return key in NEXT_KEYS


@click.command(
    epilog=examples(
        'feedcore post 42 "Hello"',
        'feedcore post 42 "For my followers" --visibility followers',
        'feedcore post 42 "Sent once" --idempotency-key 2f6c1f0e',
    )
)
@click.argument("author", type=ID)
@click.argument("text")
@click.option(
    "--visibility",
    type=click.Choice(["public", "followers", "private"]),
    default="public",
    show_default=True,
    help="Who may see it.",
)
@click.option(
    "--idempotency-key", default="", help="A retry with the same key makes no second post."
)
@json_option
@server_option
def post(author: int, text: str, visibility: str, idempotency_key: str, server: Server) -> Answer:
    """Publish TEXT as AUTHOR."""
    request = publish_pb2.PublishRequest(
        author_id=author,
        body=text,
        idempotency_key=idempotency_key,
        visibility=f"VISIBILITY_{visibility.upper()}",
    )
    reply = call(server, publish_pb2_grpc.PublishServiceStub, "Publish", request)
    wait_ms = max(0, reply.expected_visible_ms - reply.published_at_ms)
    published = f"published {reply.content_id}"
    return Answer(reply, [f"{published}; followers are expected to see it within {wait_ms} ms"])


@click.command(epilog=examples("feedcore follow 42 7"))
@click.argument("follower", type=ID)
@click.argument("followee", type=ID)
@server_option
def follow(follower: int, followee: int, server: Server) -> None:
    """Let FOLLOWER see the posts of FOLLOWEE."""
    request = graph_pb2.FollowRequest(follower_id=follower, followee_id=followee)
    answer = call(server, graph_pb2_grpc.GraphServiceStub, "Follow", request)
    click.echo("followed" if answer.changed else "was followed already")


@click.command(epilog=examples("feedcore unfollow 42 7"))
@click.argument("follower", type=ID)
@click.argument("followee", type=ID)
@server_option
def unfollow(follower: int, followee: int, server: Server) -> None:
    """Take the posts of FOLLOWEE out of the feed of FOLLOWER."""
    request = graph_pb2.UnfollowRequest(follower_id=follower, followee_id=followee)
    answer = call(server, graph_pb2_grpc.GraphServiceStub, "Unfollow", request)
    click.echo("unfollowed" if answer.changed else "was not followed")


@click.command(
    epilog=examples(
        "feedcore ping",
        "feedcore ping --wait 30 && echo ready",
        "feedcore ping --service liveness --server unix:/run/feedcore/grpc.sock",
    )
)
@click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(0, 3_600),
    default=0.0,
    help="Seconds to wait for an answer.",
)
@click.option(
    "--service",
    default="",
    help="Ask for one service; liveness: is it alive, whether or not it takes calls.",
)
@server_option
def ping(wait_s: float, service: str, server: Server) -> None:
    """Ask the server whether it serves; exit code 0 if it does."""
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    where = server.address
    with connected(server) as channel:
        if wait_s:
            try:
                grpc.channel_ready_future(channel).result(timeout=wait_s)
            except grpc.FutureTimeoutError as error:
                raise Unavailable(f"no server on {where} within {wait_s:g} s") from error
        answer = health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(service=service),
            timeout=max(wait_s, 5.0),
            wait_for_ready=bool(wait_s),
        )
    state = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        raise Unavailable(f"{where} is {state}")
    click.echo(f"{where} is serving")
