"""Session on acsylla, asyncio over ScyllaDB's C++ driver.

The driver has a thread of its own; answers reach the loop through a socket pair. Invariants: a
call that is cancelled leaves its request to the driver, which ends it without touching anything
of ours, so its place of the flight is held for as long as it can last. The binding converts
what it is given ("5" or 4.7 into a bigint): types are the caller's to keep.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import Any, NoReturn

import acsylla
from acsylla import errors as driver_errors

from feedcore.adapters.cql.flight import Flight
from feedcore.adapters.cql.session import Consistency, Statement, Write
from feedcore.adapters.cql.settings import (
    FETCH_SIZE,
    OPEN_TIMEOUT_S,
    PREPARED_MAX,
    RECONNECT_MS,
    SCHEMA_AGREEMENT_S,
    SPECULATIVE_DELAY_MS,
    SPECULATIVE_MAX,
    CqlSettings,
    addresses,
    no_keyspace,
)
from feedcore.adapters.cql.sidebyside import BatchingSession, strongest
from feedcore.errors import ConfigError, StoreError, Unavailable

# the queue between loop and driver: all that may be under way, and speculative tries of it
QUEUE_FACTOR = 2
LEVELS = {
    Consistency.ONE: acsylla.Consistency.LOCAL_ONE,
    Consistency.QUORUM: acsylla.Consistency.LOCAL_QUORUM,
}
# what may be otherwise a moment later, or on another node
_TRANSIENT = (
    driver_errors.CassErrorLibHostResolution,
    driver_errors.CassErrorLibNoHostsAvailable,
    driver_errors.CassErrorLibNoStreams,
    driver_errors.CassErrorLibRequestQueueFull,
    driver_errors.CassErrorLibRequestTimedOut,
    driver_errors.CassErrorLibUnableToConnect,
    driver_errors.CassErrorLibWriteError,
    driver_errors.CassErrorServerIsBootstrapping,
    driver_errors.CassErrorServerOverloaded,
    driver_errors.CassErrorServerReadFailure,
    driver_errors.CassErrorServerReadTimeout,
    driver_errors.CassErrorServerServerError,
    driver_errors.CassErrorServerTruncateError,
    driver_errors.CassErrorServerUnavailable,
    driver_errors.CassErrorServerWriteFailure,
    driver_errors.CassErrorServerWriteTimeout,
)


class _Prepared:
    """What the driver made of a statement, and how it is asked."""

    __slots__ = ("bind", "cql", "parameters", "profile")

    def __init__(self, statement: Statement, prepared: Any) -> None:
        self.bind = prepared.bind
        self.cql = statement.cql
        self.parameters = statement.cql.count("?")  # the driver does not say
        self.profile = profile_name(statement.consistency, statement.speculative)


def profile_name(consistency: Consistency, speculative: bool) -> str:
    return f"{consistency}{'-speculative' if speculative else ''}"


class AcsyllaSession(BatchingSession):
    """Made by `open_acsylla`."""

    def __init__(self, settings: CqlSettings, cluster: Any, driver: Any) -> None:
        self._loop = asyncio.get_running_loop()
        self._settings = settings
        self._cluster = cluster
        self._driver = driver
        self._flight = Flight("the CQL session", settings.in_flight_max, settings.waiting_max)
        self._prepared: dict[Statement, _Prepared] = {}
        self._preparing: dict[str, asyncio.Task[Any]] = {}
        self._closed = False

    async def read(self, statement: Statement, parameters: Sequence[Any] = ()) -> list[tuple]:
        rows: list[tuple] = []
        for result in await self._pages(statement, parameters):
            columns = range(result.column_count())
            # a fifth faster than the binding's own as_tuple
            rows += [tuple(map(row.column_value_by_index, columns)) for row in result]
        return rows

    async def read_packed(self, statement: Statement, parameters: Sequence[Any] = ()) -> bytes:
        values: list[bytes | None] = []
        for result in await self._pages(statement, parameters):
            columns = range(result.column_count())
            if len(columns) == 1:
                values += [row.column_value_by_index(0) for row in result]
            else:
                values += [row.column_value_by_index(at) for row in result for at in columns]
        return b"".join([value for value in values if value is not None])

    async def write(self, statement: Statement, parameters: Sequence[Any] = ()) -> None:
        prepared = self._prepared.get(statement) or await self._prepare(statement)
        bound = _bound(prepared, parameters, prepared.profile)
        await self._send(self._driver.execute(bound), prepared.cql)

    async def insert_if_absent(
        self, statement: Statement, parameters: Sequence[Any] = ()
    ) -> dict[str, Any] | None:
        prepared = self._prepared.get(statement) or await self._prepare(statement)
        bound = _bound(prepared, parameters, prepared.profile)
        row = (await self._send(self._driver.execute(bound), prepared.cql)).first().as_dict()
        return None if row.pop("[applied]") else row

    async def batch(self, writes: Sequence[Write], *, logged: bool) -> None:
        make = acsylla.create_batch_logged if logged else acsylla.create_batch_unlogged
        profile = profile_name(strongest(writes), False)
        batch = make(execution_profile=profile)
        batch.set_is_idempotent(True)
        for statement, parameters in writes:
            prepared = self._prepared.get(statement) or await self._prepare(statement)
            batch.add_statement(_bound(prepared, parameters, profile))
        await self._send(self._driver.execute_batch(batch), f"batch of {len(writes)}")

    async def define(self, cql: str) -> None:
        """A schema statement, not prepared. Returns when the nodes agree on the schema, as far as
        the driver waits for that.
        """
        query = self._driver.query(cql, timeout=SCHEMA_AGREEMENT_S)
        await self._send(self._driver.execute(query), cql[:80])

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        await self._flight.landed()
        for task in list(self._preparing.values()):
            await asyncio.wait([task])
        await self._driver.close()
        self._cluster.destroy()

    async def _pages(self, statement: Statement, parameters: Sequence[Any]) -> list[Any]:
        prepared = self._prepared.get(statement) or await self._prepare(statement)
        bound = _bound(prepared, parameters, prepared.profile)
        pages = []
        while True:
            result = await self._send(self._driver.execute(bound), prepared.cql)
            pages.append(result)
            if not result.has_more_pages():
                return pages
            bound.set_page_state(result.page_state())

    async def _send(self, request: Coroutine[Any, Any, Any], what: str) -> Any:
        try:
            if self._closed:
                raise Unavailable("the CQL session is closed")
            if not self._flight.try_admit():
                await self._flight.admit()
        except BaseException:
            request.close()
            raise
        try:
            result = await request
        except asyncio.CancelledError:
            # the driver goes on with it
            self._loop.call_later(self._settings.request_timeout_s, self._flight.land)
            raise
        except Exception as error:
            self._flight.land()
            raise_mapped(error, what)
        self._flight.land()
        return result

    async def _prepare(self, statement: Statement) -> _Prepared:
        task = self._preparing.get(statement.cql)
        if task is None:
            if len(self._prepared) >= PREPARED_MAX:
                raise StoreError(
                    f"prepared statements: more than {PREPARED_MAX}; values belong in parameters:"
                    f" {statement.cql[:80]}"
                )
            preparing = self._send(self._driver.create_prepared(statement.cql), statement.cql)
            task = self._loop.create_task(preparing)
            self._preparing[statement.cql] = task
            task.add_done_callback(partial(self._forget_preparing, statement.cql))
        prepared = _Prepared(statement, await asyncio.shield(task))
        self._prepared[statement] = prepared
        return prepared

    def _forget_preparing(self, cql: str, task: asyncio.Task[Any]) -> None:
        del self._preparing[cql]
        if not task.cancelled():
            task.exception()  # who waited has it; who was cancelled does not need it


def _bound(prepared: _Prepared, parameters: Sequence[Any], profile: str) -> Any:
    if len(parameters) != prepared.parameters:  # the rest would stay as it is in the row
        raise StoreError(
            f"CQL: {len(parameters)} parameters; {prepared.parameters} wanted: {prepared.cql}"
        )
    try:
        bound = prepared.bind(tuple(parameters), FETCH_SIZE, execution_profile=profile)
        bound.set_is_idempotent(True)
    except (TypeError, ValueError, OverflowError, driver_errors.CassException) as error:
        raise StoreError(f"CQL: parameters do not fit: {error}: {prepared.cql}") from error
    return bound


def raise_mapped(error: Exception, what: str) -> NoReturn:
    """As Unavailable or StoreError."""
    if isinstance(error, _TRANSIENT):
        raise Unavailable(f"CQL: {type(error).__name__}: {error}: {what}") from error
    if isinstance(error, driver_errors.CassException):
        raise StoreError(f"CQL: {type(error).__name__}: {error}: {what}") from error
    raise error


def _cluster(settings: CqlSettings) -> Any:
    points = addresses(settings.contact_points)
    ports = {port for _, port in points}
    if len(ports) > 1:
        raise ConfigError(f"cql contact points: ports {sorted(ports)}; acsylla takes one for all")
    tls: dict[str, Any] = {}
    if settings.tls is not None:
        tls = {"ssl_enabled": True, "ssl_trusted_cert": settings.tls.ca.read_text()}
        if settings.tls.certificate is not None and settings.tls.key is not None:
            tls["ssl_cert"] = settings.tls.certificate.read_text()
            tls["ssl_private_key"] = settings.tls.key.read_text()
    cluster = acsylla.create_cluster(
        [host for host, _ in points],
        port=points[0][1],
        username=settings.user or None,
        password=settings.password or None,
        connect_timeout=settings.connect_timeout_s,
        request_timeout=settings.request_timeout_s,
        resolve_timeout=settings.connect_timeout_s,
        serial_consistency=acsylla.Consistency.LOCAL_SERIAL,
        queue_size_io=max(8_192, QUEUE_FACTOR * settings.in_flight_max),
        constant_reconnect_delay_ms=RECONNECT_MS,
        max_schema_wait_time_ms=int(SCHEMA_AGREEMENT_S * 1_000),
        load_balance_dc_aware=settings.local_dc or None,
        application_name="feedcore",
        log_level="error",  # its warnings are about servers that are not ScyllaDB
        **tls,
    )
    again = acsylla.SpeculativeExecutionPolicy(SPECULATIVE_DELAY_MS, SPECULATIVE_MAX)
    for level in Consistency:
        for speculative in (False, True):
            cluster.create_execution_profile(
                profile_name(level, speculative),
                consistency=LEVELS[level],
                serial_consistency=acsylla.Consistency.LOCAL_SERIAL,
                speculative_execution_policy=again if speculative else None,
            )
    return cluster


async def open_acsylla(settings: CqlSettings) -> AcsyllaSession:
    """Connects. Unavailable if no contact point answers, StoreError if one refuses."""
    cluster = _cluster(settings)
    points = ", ".join(settings.contact_points)
    try:
        connecting = cluster.create_session(keyspace=settings.keyspace or None)
        driver = await asyncio.wait_for(connecting, OPEN_TIMEOUT_S)
    except BaseException as error:
        cluster.destroy()
        if isinstance(error, TimeoutError):
            raise Unavailable(f"CQL at {points}: no answer within {OPEN_TIMEOUT_S:g} s") from error
        if isinstance(error, driver_errors.CassErrorLibUnableToSetKeyspace):
            raise no_keyspace(settings) from error
        if isinstance(error, driver_errors.CassErrorServerBadCredentials):
            raise StoreError(f"CQL at {points}: the user {settings.user!r} is refused") from error
        if isinstance(error, Exception):
            raise_mapped(error, f"connecting to {points}")
        raise
    return AcsyllaSession(settings, cluster, driver)
