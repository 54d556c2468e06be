"""The composition root of the engine: settings in, the services of one process out.

    compose         settings and a role -> an engine over its store, open until the block ends
    compose_over    an engine over a store that is open already, by any clock
    stores          settings -> the store of a profile
    collaborators   settings -> clients of other teams' services
    engine          which service takes which port

API workers, the fan-out process, the collaborators' server, offline commands, tests and benchmarks
all get their engine here, so that all of them run the same composition. Not for services: those get
ports and never know which profile they run on.
"""

from feedcore.compose.collaborators import Collaborators
from feedcore.compose.engine import Engine, Store, compose_over
from feedcore.compose.opening import Role, compose

__all__ = [
    "Collaborators",
    "Engine",
    "Role",
    "Store",
    "compose",
    "compose_over",
]
