"""Other teams' services behind our ports: gRPC clients of proto/feedcore/collaborators."""

from feedcore.adapters.collaborators.content import CollaboratorContentSource
from feedcore.adapters.collaborators.graph import CollaboratorGraphSource
from feedcore.adapters.collaborators.ranking import CollaboratorRanker
from feedcore.adapters.collaborators.service import Bounds, Service

__all__ = [
    "Bounds",
    "CollaboratorContentSource",
    "CollaboratorGraphSource",
    "CollaboratorRanker",
    "Service",
]
