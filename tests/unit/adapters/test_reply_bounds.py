"""Every reply of every collaborator has bounds, and the table names nothing else."""

from __future__ import annotations

import pytest
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import ServiceDescriptor

from feedcore.adapters.collaborators.replies import FIELDS, REPLIES
from feedcore_pb.collaborators.v1 import content_pb2, graph_pb2, ranking_pb2

SERVICES = [
    content_pb2.DESCRIPTOR.services_by_name["ContentService"],
    graph_pb2.DESCRIPTOR.services_by_name["GraphService"],
    ranking_pb2.DESCRIPTOR.services_by_name["RankingService"],
]


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_every_reply_has_a_plan(service: ServiceDescriptor) -> None:
    for method in service.methods:
        assert REPLIES.plan(method.output_type).fields_max > 0


def test_the_table_names_nothing_that_is_not_there() -> None:
    for name in FIELDS:
        assert descriptor_pool.Default().FindFieldByName(name) is not None
