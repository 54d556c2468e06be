"""Settings: one typed, validated source. Flags win over environment, environment over file, file
over defaults.

`node` and `engines` have the sections, `reading` the sources, `checking` what a person should know
before starting. Not for values that operators change while the engine runs: those marked *hot* are
start values only.
"""

from feedcore.config.engines import (
    CollaboratorSettings,
    CqlSettings,
)
from feedcore.config.node import (
    NODE_MAX,
    REGION_MAX,
    CacheSettings,
    FanoutSettings,
    ServerSettings,
    StoreSettings,
    available_cores,
)
from feedcore.config.reading import (
    ENVIRONMENT_PREFIX,
    ENVIRONMENT_SWITCHES,
    KEYS,
    Loaded,
    environment_name,
    load,
    meaning_of,
)
from feedcore.config.settings import Settings, fanout_node
from feedcore.config.types import REVEAL, split_address

__all__ = [
    "ENVIRONMENT_PREFIX",
    "ENVIRONMENT_SWITCHES",
    "KEYS",
    "NODE_MAX",
    "REGION_MAX",
    "REVEAL",
    "CacheSettings",
    "CollaboratorSettings",
    "CqlSettings",
    "FanoutSettings",
    "Loaded",
    "ServerSettings",
    "Settings",
    "StoreSettings",
    "available_cores",
    "environment_name",
    "fanout_node",
    "load",
    "meaning_of",
    "split_address",
]
