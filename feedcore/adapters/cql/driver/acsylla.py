"""Session on acsylla, asyncio over ScyllaDB's C++ driver.

The driver has a thread of its own; answers reach the loop through a socket pair. Invariants: a
call that is cancelled leaves its request to the driver, and the place of the flight is taken until
that has ended; parameters are as many as the statement has, or the driver would leave the others
unset. The binding converts what it is given ("5" or 4.7 into a bigint): types are the caller's to
keep.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, NoReturn

import acsylla
from acsylla import errors as driver_errors

from feedcore.adapters.cql.driver.batching import BatchingSession, pack_values, strongest
from feedcore.adapters.cql.driver.options import (
    FETCH_SIZE,
    HEARTBEAT_S,
    OPEN_TIMEOUT_S,
    RECONNECT_MS,
    SCHEMA_AGREEMENT_S,
    SILENT_S,
    SPECULATIVE_DELAY_MS,
    CqlSettings,
    addresses,
    no_keyspace,
)
from feedcore.adapters.cql.driver.session import Consistency, Statement, Write
from feedcore.errors import ConfigError, StoreError, Unavailable
from feedcore.resilience.bulkhead import Bulkhead

_TOLD_OF_CASSANDRA = ("WITHOUT SHARD-AWARENESS", "`USE <keyspace>` with prepared")
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


def _is_news(record: logging.LogRecord) -> bool:
    """Not what the driver says at every connection to a server that is not ScyllaDB."""
    return not any(told in record.getMessage() for told in _TOLD_OF_CASSANDRA)


logging.getLogger("acsylla").addFilter(_is_news)


class _Prepared:
    """What the driver made of a statement, and how it is asked."""

    __slots__ = ("bind", "cql", "parameters", "profile")

    def __init__(self, statement: Statement, prepared: Any) -> None:
        self.bind = prepared.bind
        self.cql = statement.cql
        self.parameters = statement.cql.count("?")  # the driver does not say
        self.profile = str(statement.consistency)


class _Answer:
    """What a call waits for, and how many requests may still give it."""

    __slots__ = ("future", "under_way")

    def __init__(self, future: asyncio.Future[Any]) -> None:
        self.future = future
        self.under_way = 0


class _Request:
    """Runs the driver's coroutine to its end, whatever becomes of who waits for the answer: what a
    task of its own would do, for less CPU. It has a place of the flight and gives it back.
    """

    __slots__ = ("_answer", "_flight", "_loop", "_request")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        request: Coroutine[Any, Any, Any],
        answer: _Answer,
        flight: Bulkhead,
    ) -> None:
        self._loop = loop
        self._request = request
        self._answer = answer
        self._flight = flight
        answer.under_way += 1

    def advance(self, _: object = None) -> None:
        """To where the coroutine waits, or to its end."""
        try:
            waits_for = self._request.send(None)
        except StopIteration as done:
            if self._ends():
                self._answer.future.set_result(done.value)
        except Exception as error:
            if self._ends() and not self._answer.under_way:
                self._answer.future.set_exception(error)
        else:
            if waits_for is None:  # a turn of the loop
                self._loop.call_soon(self.advance)
            else:
                waits_for._asyncio_future_blocking = False  # taken, as a task takes it
                waits_for.add_done_callback(self.advance)

    def _ends(self) -> bool:
        """True if somebody waits for the answer."""
        self._flight.leave()
        self._answer.under_way -= 1
        return not self._answer.future.done()


class AcsyllaSession(BatchingSession):
    """Made by `open_acsylla`."""

    def __init__(self, settings: CqlSettings, cluster: Any, driver: Any) -> None:
        super().__init__(settings)
        self._cluster = cluster
        self._driver = driver

    async def read(self, statement: Statement, parameters: Sequence[Any] = ()) -> list[tuple]:
        rows: list[tuple] = []
        for result in await self._pages(statement, parameters):
            columns = range(result.column_count())
            # a fifth faster than the binding's own as_tuple
            rows += [tuple(map(row.column_value_by_index, columns)) for row in result]
        return rows

    async def read_packed(self, statement: Statement, parameters: Sequence[Any] = ()) -> bytes:
        values: list[Any] = []
        for result in await self._pages(statement, parameters):
            columns = range(result.column_count())
            if len(columns) == 1:
                values += [row.column_value_by_index(0) for row in result]
            else:
                values += [row.column_value_by_index(at) for row in result for at in columns]
        return pack_values(values, statement)

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
        profile = str(strongest(writes))
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

    async def _end(self) -> None:
        await self._driver.close()
        self._cluster.destroy()

    async def _pages(self, statement: Statement, parameters: Sequence[Any]) -> list[Any]:
        prepared = self._prepared.get(statement) or await self._prepare(statement)
        pages = []
        state: bytes | None = None
        while True:
            # bound for every page: an earlier try of it may still be on the driver's thread
            again = partial(self._again, prepared, parameters, state)
            bound = _bound(prepared, parameters, prepared.profile, state)
            request = self._driver.execute(bound)
            result = await self._send(
                request, prepared.cql, again if statement.speculative else None
            )
            pages.append(result)
            if not result.has_more_pages():
                return pages
            state = result.page_state()

    async def _send(
        self,
        request: Coroutine[Any, Any, Any],
        what: str,
        again: Callable[[_Answer], None] | None = None,
    ) -> Any:
        try:
            if self._closed:
                raise Unavailable("the CQL session is closed")
            if not self._flight.try_enter():
                await self._flight.enter()
        except BaseException:
            request.close()
            raise
        answer = _Answer(self._loop.create_future())
        _Request(self._loop, request, answer, self._flight).advance()
        timer = None
        if again is not None:
            timer = self._loop.call_later(SPECULATIVE_DELAY_MS / 1_000, again, answer)
        try:
            return await answer.future
        except Exception as error:
            raise_mapped(error, what)
        finally:
            if timer is not None:
                timer.cancel()

    def _again(
        self, prepared: _Prepared, parameters: Sequence[Any], state: bytes | None, answer: _Answer
    ) -> None:
        """A second try, if there is room for more than first ones. Replicas are shuffled: with
        three of them it is most likely another one. Not the driver's own speculation: where no
        other node is up, it forgets the timeout of the first try.
        """
        if answer.future.done() or not self._flight.try_enter():
            return
        request = self._driver.execute(_bound(prepared, parameters, prepared.profile, state))
        _Request(self._loop, request, answer, self._flight).advance()

    async def _prepare_now(self, cql: str) -> Any:
        return await self._send(self._driver.create_prepared(cql), cql)

    def _take_prepared(self, statement: Statement, made: Any) -> _Prepared:
        return _Prepared(statement, made)


def _bound(
    prepared: _Prepared, parameters: Sequence[Any], profile: str, state: bytes | None = None
) -> Any:
    if len(parameters) != prepared.parameters:  # the rest would stay as it is in the row
        raise StoreError(
            f"CQL: {len(parameters)} parameters; {prepared.parameters} wanted: {prepared.cql}"
        )
    try:
        bound = prepared.bind(tuple(parameters), FETCH_SIZE, state, execution_profile=profile)
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
        exponential_reconnect_base_delay_ms=None,  # its default would overrule that
        heartbeat_interval_sec=HEARTBEAT_S,
        idle_timeout_sec=SILENT_S,
        max_schema_wait_time_ms=int(SCHEMA_AGREEMENT_S * 1_000),
        load_balance_dc_aware=settings.local_dc or None,
        application_name="feedcore",
        **tls,
    )
    for level in Consistency:
        cluster.create_execution_profile(
            str(level),
            consistency=LEVELS[level],
            serial_consistency=acsylla.Consistency.LOCAL_SERIAL,
        )
    return cluster


async def open_acsylla(settings: CqlSettings) -> AcsyllaSession:
    """Connects. Unavailable if no contact point answers, StoreError if one refuses."""
    cluster = _cluster(settings)
    points = ", ".join(settings.contact_points)
    loop = asyncio.get_running_loop()
    connecting = loop.create_task(cluster.create_session(keyspace=settings.keyspace or None))
    try:
        driver = await asyncio.wait_for(asyncio.shield(connecting), OPEN_TIMEOUT_S)
    except BaseException as error:
        # not before: the driver's thread still writes to what this closes
        connecting.add_done_callback(partial(_end_attempt, cluster))
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


def _end_attempt(cluster: Any, connecting: asyncio.Task[Any]) -> None:
    """Of a session whose callers have gone."""
    if not connecting.cancelled() and connecting.exception() is None:
        # it came too late: its connections end when it is collected
        return
    cluster.destroy()
