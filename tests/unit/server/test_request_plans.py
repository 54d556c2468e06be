"""Every served method has bounds, which leave room for the largest request of its contract."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message_factory import GetMessageClass

import feedcore_server.wiring  # noqa: F401 - brings all descriptors
from feedcore_server.limits import REQUEST_BYTES_MAX, REQUEST_SPARE_BYTES
from feedcore_server.parsing import Parser
from feedcore_server.request_bounds import FIELDS, REQUESTS

SERVICES = (
    "feedcore.v1.FeedService",
    "feedcore.v1.PublishService",
    "feedcore.v1.AdminService",
    "feedcore.collaborators.v1.GraphService",
    "feedcore.collaborators.v1.ContentService",
    "feedcore.collaborators.v1.RankingService",
    "grpc.health.v1.Health",
    "grpc.reflection.v1alpha.ServerReflection",
)
METHODS = [
    method
    for service in SERVICES
    for method in descriptor_pool.Default().FindServiceByName(service).methods
]
NUMBERS = {
    FieldDescriptor.TYPE_UINT64: 2**64 - 1,
    FieldDescriptor.TYPE_INT64: -1,
    FieldDescriptor.TYPE_INT32: -1,
    FieldDescriptor.TYPE_UINT32: 2**32 - 1,
    FieldDescriptor.TYPE_ENUM: -1,
    FieldDescriptor.TYPE_BOOL: True,
    FieldDescriptor.TYPE_DOUBLE: 1.5,
    FieldDescriptor.TYPE_FLOAT: 1.5,
}


def largest(message: Any, descriptor: Descriptor) -> None:
    """Fills every field as far as its bound allows; of lists that share one, the first."""
    shared = set()
    for field in descriptor.fields:
        bound = FIELDS.get(field.full_name)
        if bound is not None and bound.shared:
            if bound.shared in shared:
                continue
            shared.add(bound.shared)
        if field.message_type is None:
            value = NUMBERS.get(field.type)
            if value is None:
                assert bound is not None
                # of a row the message is the bound: as much as 5,000 rows leave it
                value = "x" * min(bound.size, 1_000)
            if field.is_repeated:
                getattr(message, field.name).extend([value] * bound.entries)
            else:
                setattr(message, field.name, value)
            continue
        part = GetMessageClass(field.message_type)()
        largest(part, field.message_type)
        if field.is_repeated:
            getattr(message, field.name).extend([part] * bound.entries)
        else:
            getattr(message, field.name).CopyFrom(part)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.full_name)
def test_the_largest_request_of_the_contract_is_parsed(method: MethodDescriptor) -> None:
    request_class = GetMessageClass(method.input_type)
    message = request_class()
    largest(message, method.input_type)
    parser = Parser(request_class, REQUESTS)
    assert parser.parse(message.SerializeToString()) == message
    assert parser.plan.bytes_max <= REQUEST_BYTES_MAX


def test_bytes_of_requests() -> None:
    most = {method.name: REQUESTS.plan(method.input_type).bytes_max for method in METHODS}
    assert most["GetFeed"] < 5_000 and most["CheckNew"] < 5_000
    assert most["Publish"] < 70_000  # a body of 40,000 bytes, ten references of 2,200
    assert most["Follow"] == 22 + REQUEST_SPARE_BYTES
    large = {name for name, size in most.items() if size > 130_000}
    assert large == {"Import"}


def test_the_table_names_nothing_that_is_not_there() -> None:
    pool = descriptor_pool.Default()
    for name in FIELDS:
        assert pool.FindFieldByName(name) is not None
