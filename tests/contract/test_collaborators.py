"""The clients of collaborators keep the contracts of their ports, over a real socket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.contract.suite_content import ContentContract
from tests.contract.suite_graph import GraphContract
from tests.contract.suite_ranker import RankerContract
from tests.contract.test_embedded import EmbeddedEngine
from tests.support.collaboratorengine import CollaboratorEngine, opened


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[CollaboratorEngine]:
    """Services over an empty store."""
    local = EmbeddedEngine(tmp_path / "data")
    async with opened(local) as made:
        yield made
    await local.close()


@pytest.fixture
def ranking(engine: CollaboratorEngine) -> CollaboratorEngine:
    """The same services rank."""
    return engine


class TestCollaboratorContents(ContentContract):
    """See the suite."""


class TestCollaboratorGraph(GraphContract):
    """See the suite."""


class TestCollaboratorRanker(RankerContract):
    """See the suite."""
