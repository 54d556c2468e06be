"""Messages are counted before they are parsed: both twins, against protobuf and each other."""

from __future__ import annotations

import random
from typing import Any

import pytest
from google.protobuf import struct_pb2
from google.protobuf.message import DecodeError, Message
from hypothesis import given
from hypothesis import strategies as st

from feedcore import native
from feedcore.codecs import wirebounds
from feedcore.codecs.bounds import Bound, Plan, Policy, Unbounded
from feedcore.codecs.protowire import bytes_field, uint_field, varint
from feedcore.codecs.wirebounds import BLOB, COUNT, FIELDS, GROUP, GROUP_END, MALFORMED, SHARED
from feedcore.codecs.wirebounds import SIZE as TOO_LONG
from feedcore_pb.collaborators.v1 import events_pb2, graph_pb2
from feedcore_pb.v1 import admin_pb2, publish_pb2

MUTATIONS = 20_000
MOST = 3  # entries of a list
LONGEST = 8  # bytes of a string


class Everything(dict[str, Bound]):
    """Bounds for whatever is asked for: lists of MOST, strings of LONGEST."""

    def get(self, name: str, _default: Any = None) -> Bound:
        shared = "rows" if name.startswith("feedcore.v1.ImportBatch") else ""
        if name.endswith("_id"):
            return Bound()
        return Bound(MOST, LONGEST, shared)


POLICY = Policy(Everything(), 1 << 20, 1 << 20)
CLASSES: list[type[Message]] = [
    publish_pb2.PublishRequest,  # a list of messages, strings
    admin_pb2.SetRankingRequest,  # a list in a part
    admin_pb2.ImportBatch,  # lists that share a bound
    admin_pb2.GetStatusResponse,  # a map, lists of messages
    graph_pb2.GetFollowerCountsRequest,  # a list of numbers
    events_pb2.ReportRequest,  # lists in lists, in parts of which one is set
]
TWINS = [wirebounds.WireBounds] + [native.WireBounds] * native.COMPILED


def plan_of(request_class: type[Message]) -> Plan:
    return POLICY.plan(request_class.DESCRIPTOR)


def found(request_class: type[Message], raw: bytes) -> Any:
    """What both twins say."""
    plan = plan_of(request_class)
    said = [twin(plan.nodes, plan.fields_max).check(raw) for twin in TWINS]
    assert all(one == said[0] for one in said), (raw.hex(), said)
    return said[0]


def refusal(request_class: type[Message], raw: bytes) -> str:
    beyond = found(request_class, raw)
    assert beyond is not None
    return str(plan_of(request_class).error(wirebounds.Found(*beyond), len(raw)))


def fits(message: Message) -> bool:
    """Whether what protobuf has parsed is within the bounds."""
    rows = 0
    for field, value in message.ListFields():
        entries = list(value) if field.is_repeated else [value]
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            entries = list(value)
        if field.is_repeated and len(value) > MOST:
            return False
        rows += len(value) if field.is_repeated else 0
        for one in entries:
            if isinstance(one, Message) and not fits(one):
                return False
            if isinstance(one, str) and len(one.encode()) > LONGEST:
                return False
    return rows <= MOST or not isinstance(message, admin_pb2.ImportBatch)


def parsed(request_class: type[Message], raw: bytes) -> Message | None:
    try:
        return request_class.FromString(raw)
    except DecodeError:
        return None


def sample(dice: random.Random) -> tuple[type[Message], bytes]:
    """A message near its bounds."""
    text = "x" * dice.choice([0, 1, 7, 8, 8, 9])
    many = dice.choice([0, 1, 2, 3, 3, 4])
    number = dice.choice([0, 1, 2**31, 2**64 - 1])
    media = [{"uri": text, "width": 7}] * many
    arms = [{"name": text, "parameters": {"half_life_hours": 1.5}}] * many
    events: list[Any] = [
        {"event_id": number, "page_served": {"content_ids": [number] * many}},
        {"published": {"content_id": 3, "visibility": 1}},
    ]
    message = dice.choice(
        [
            publish_pb2.PublishRequest(author_id=number, body=text, media=media),
            admin_pb2.SetRankingRequest(config={"experiment": text, "arms": arms}),
            admin_pb2.ImportBatch(
                batch_id=number,
                follows=[{"follower_id": number}] * dice.randrange(3),
                posts=[{"post_key": text, "likes": number}] * dice.randrange(3),
            ),
            admin_pb2.GetStatusResponse(
                store={f"{text}{place}"[:9]: number for place in range(many)},
                lanes=[{"name": text, "lag_ms": -1}],
            ),
            graph_pb2.GetFollowerCountsRequest(user_ids=[number] * many),
            events_pb2.ReportRequest(events=events * dice.randrange(3)),
        ]
    )
    return type(message), message.SerializeToString()


def mutated(dice: random.Random, raw: bytes) -> bytes:
    """Cut, doubled, a byte changed, or a piece moved."""
    data = bytearray(raw)
    for _ in range(dice.randrange(3)):
        at = dice.randrange(len(data) + 1)
        kind = dice.randrange(5)
        if kind == 0:
            del data[at:]
        elif kind == 1:
            data += bytes(data)
        elif kind == 2 and at < len(data):
            data[at] = dice.choice([0, 1, 0x7F, 0x80, 0xFF, data[at] ^ 1 << dice.randrange(8)])
        elif kind == 3:
            data[at:at] = dice.randbytes(dice.randrange(4))
        else:
            data[at:at] = data[: dice.randrange(len(data) + 1)]
    return bytes(data)


def agrees(request_class: type[Message], raw: bytes) -> int:
    """Compares with protobuf; the fault, -1 if there is none."""
    beyond = found(request_class, raw)
    message = parsed(request_class, raw)
    if beyond is None:
        assert message is None or fits(message), raw.hex()
        return -1
    if beyond[0] == MALFORMED:
        assert message is None, raw.hex()
    return int(beyond[0])


def test_mutated_messages() -> None:
    dice = random.Random(7)
    seen = set()
    for _ in range(MUTATIONS):
        request_class, raw = sample(dice)
        seen.add(agrees(request_class, mutated(dice, raw)))
    assert seen >= {-1, MALFORMED, COUNT, SHARED, TOO_LONG}


@given(st.sampled_from(CLASSES), st.binary(max_size=60))
def test_any_bytes(request_class: type[Message], raw: bytes) -> None:
    agrees(request_class, raw)


def test_a_refusal_names_the_way_to_the_field() -> None:
    request = publish_pb2.PublishRequest(media=[{"uri": "a"}, {"uri": "b" * 9}])
    said = refusal(publish_pb2.PublishRequest, request.SerializeToString())
    assert said == "media[1].uri: 9 bytes; at most 8 bytes"
    many = events_pb2.ReportRequest(
        events=[{"event_id": 1}, {"page_served": {"content_ids": [1] * 4}}]
    )
    said = refusal(events_pb2.ReportRequest, many.SerializeToString())
    assert said == "events[1].page_served.content_ids: 4 or more; at most 3"
    status = admin_pb2.GetStatusResponse(store={"a": 1, "b" * 9: 2})
    said = refusal(admin_pb2.GetStatusResponse, status.SerializeToString(deterministic=True))
    assert said == "store[1].key: 9 bytes; at most 8 bytes"


def test_lists_that_share_a_bound() -> None:
    batch = admin_pb2.ImportBatch(follows=[{}] * 2, posts=[{}, {}])
    said = refusal(admin_pb2.ImportBatch, batch.SerializeToString())
    together = "follows, mutes, posts, interactions"
    assert said == f"posts: entry 4 of the message; at most 3 of {together} together"


def test_a_part_that_comes_twice_is_merged_and_an_entry_begins_anew() -> None:
    half = admin_pb2.SetRankingRequest(config={"arms": [{"name": "a"}] * 2}).SerializeToString()
    assert found(admin_pb2.SetRankingRequest, half) is None
    assert refusal(admin_pb2.SetRankingRequest, half * 2) == "config.arms: 4 or more; at most 3"
    page = {"page_served": {"content_ids": [1, 2, 3]}}
    pages = events_pb2.ReportRequest(events=[page, page, page])  # nine ids, three in each
    assert found(events_pb2.ReportRequest, pages.SerializeToString()) is None


@pytest.mark.parametrize("split", range(5))
def test_numbers_packed_and_not(split: int) -> None:
    packed = bytes_field(1, b"\xff\x01" * split)
    single = (varint(1 << 3) + b"\x05") * (4 - split)
    for raw in (packed + single, single + packed):
        assert parsed(graph_pb2.GetFollowerCountsRequest, raw) is not None
        said = refusal(graph_pb2.GetFollowerCountsRequest, raw)
        assert said == "user_ids: 4 or more; at most 3"


def test_another_wire_type_is_an_unknown_field() -> None:
    fixed = varint(1 << 3 | 1) + bytes(8)
    assert found(graph_pb2.GetFollowerCountsRequest, fixed * 9) is None
    assert graph_pb2.GetFollowerCountsRequest.FromString(fixed * 9).user_ids == []


def test_fields_are_bounded_whatever_they_are() -> None:
    plan = plan_of(graph_pb2.GetFollowerCountsRequest)
    most = plan.fields_max
    unknown = uint_field(9, 1)
    group = varint(9 << 3 | GROUP) + unknown * (most - 2) + varint(9 << 3 | GROUP_END)
    for raw in (unknown * most, group):
        assert found(graph_pb2.GetFollowerCountsRequest, raw) is None
    for raw in (unknown * (most + 1), group + unknown, varint(9 << 3 | GROUP) + unknown * most):
        beyond = found(graph_pb2.GetFollowerCountsRequest, raw)
        assert (beyond[0], beyond[3]) == (FIELDS, most)
    said = refusal(graph_pb2.GetFollowerCountsRequest, unknown * 1_000)
    assert said == f"request: more than {most} fields; at most {most}"


def test_what_has_no_bound_has_no_plan() -> None:
    known = {
        "feedcore.v1.PublishRequest.body": Bound(size=9),
        "feedcore.v1.PublishRequest.media": Bound(size=9),  # of what? it is a list
        "feedcore.v1.MediaRef.uri": Bound(entries=9),
    }
    with pytest.raises(Unbounded) as refused:
        Policy(known, 100, 0).plan(publish_pb2.PublishRequest.DESCRIPTOR)
    assert str(refused.value) == (
        "feedcore.v1.PublishRequest: no bound for feedcore.v1.PublishRequest.media,"
        " feedcore.v1.MediaRef.uri, feedcore.v1.MediaRef.mime_type,"
        " feedcore.v1.PublishRequest.idempotency_key"
    )
    with pytest.raises(Unbounded, match=r"google\.protobuf\.Value \(it may hold itself\)"):
        POLICY.plan(struct_pb2.Value.DESCRIPTOR)
    with pytest.raises(Unbounded, match=r"GetStatusResponse\.store"):
        Policy({}, 100, 0).plan(admin_pb2.GetStatusResponse.DESCRIPTOR)


def test_bytes_of_the_largest_message() -> None:
    bounds = {"feedcore.collaborators.v1.GetFollowerCountsRequest.user_ids": Bound(entries=4)}
    plan = Policy(bounds, 1_000, 7).plan(graph_pb2.GetFollowerCountsRequest.DESCRIPTOR)
    assert plan.bytes_max == 4 * 11 + 7 and plan.lists
    capped = Policy(bounds, 30, 7).plan(graph_pb2.GetFollowerCountsRequest.DESCRIPTOR)
    assert capped.bytes_max == 30
    assert BLOB == 2  # of the wire, and so for ever
