"""open_session: the driver that the settings name, connected."""

from __future__ import annotations

from feedcore.adapters.cql.driver.options import CqlSettings
from feedcore.adapters.cql.driver.session import SchemaSession
from feedcore.errors import ConfigError


async def open_session(settings: CqlSettings) -> SchemaSession:
    """Unavailable, within seconds, if no contact point answers: the caller tries again. StoreError
    if one does and refuses: wrong user, no such keyspace. Once open, a session recovers by itself
    from anything that nodes do.
    """
    try:
        if settings.driver == "acsylla":
            from feedcore.adapters.cql.driver.acsylla import open_acsylla

            return await open_acsylla(settings)
        from feedcore.adapters.cql.driver.scylla import open_scylla

        return await open_scylla(settings)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"cql driver {settings.driver!r}: {error}; install 'feedcore[cluster]'"
        ) from error
