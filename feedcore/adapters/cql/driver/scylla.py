"""Session on scylla-driver, which runs a reactor thread of its own.

A request leaves from the event loop, its answer arrives on the reactor thread, which decodes it,
appends it to a deque and wakes the loop, once a burst. Invariants: what the driver does with
blocking calls (connect, prepare, close) is done in our threads; a place of the flight is taken
until the request has ended, whatever became of the call that waits for it; a statement is prepared
once, also when many ask for it at the same time. Routing by token and shard, reconnecting and
repeated tries are the driver's.

Results are decoded by the driver's compiled code. Not compressed: packed ids and hashes do not
shrink, and what does, contents, is small beside them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from typing import Any, NoReturn

from cassandra import (
    AuthenticationFailed,
    ConsistencyLevel,
    CoordinationFailure,
    DriverException,
    OperationTimedOut,
    RequestExecutionException,
    Timeout,
    Unauthorized,
)
from cassandra import Unavailable as TooFewReplicas
from cassandra.auth import PlainTextAuthProvider
from cassandra.cluster import Cluster, ExecutionProfile, NoHostAvailable, ResponseFuture
from cassandra.cluster import Session as DriverSession
from cassandra.connection import ConnectionException
from cassandra.policies import (
    ConstantReconnectionPolicy,
    ConstantSpeculativeExecutionPolicy,
    DCAwareRoundRobinPolicy,
    TokenAwarePolicy,
)
from cassandra.protocol import (
    ErrorMessage,
    IsBootstrappingErrorMessage,
    OverloadedErrorMessage,
    ServerError,
    TruncateError,
)
from cassandra.query import (
    BatchStatement,
    BatchType,
    BoundStatement,
    PreparedStatement,
    SimpleStatement,
    dict_factory,
    tuple_factory,
)

from feedcore.adapters.cql.driver.batching import BatchingSession, pack_values, strongest
from feedcore.adapters.cql.driver.options import (
    FETCH_SIZE,
    HEARTBEAT_S,
    OPEN_TIMEOUT_S,
    RECONNECT_MS,
    SCHEMA_AGREEMENT_S,
    SILENT_S,
    SPECULATIVE_DELAY_MS,
    SPECULATIVE_MAX,
    CqlSettings,
    addresses,
    no_keyspace,
    tls_context,
)
from feedcore.adapters.cql.driver.session import Consistency, Statement, Write
from feedcore.errors import StoreError, Unavailable

THREADS = 4  # prepare statements concurrently at the start of a process; idle later
LEVELS = {
    Consistency.ONE: ConsistencyLevel.LOCAL_ONE,
    Consistency.QUORUM: ConsistencyLevel.LOCAL_QUORUM,
}
_LWT = "lwt"
# what may be otherwise a moment later, or on another node
_TRANSIENT = (
    NoHostAvailable,
    OperationTimedOut,
    Timeout,
    TooFewReplicas,
    CoordinationFailure,
    ConnectionException,
    OverloadedErrorMessage,
    IsBootstrappingErrorMessage,
    ServerError,
    TruncateError,
)


class _Call:
    """A request under way, and later its pages."""

    __slots__ = ("answer", "pages", "response")

    def __init__(self, answer: asyncio.Future[list[Any]], response: ResponseFuture) -> None:
        self.answer = answer
        self.response: ResponseFuture | None = response
        self.pages: list[Any] = []


def profile_name(consistency: Consistency, speculative: bool) -> str:
    """Of the execution profile with these two."""
    return f"{consistency}{'-speculative' if speculative else ''}"


class ScyllaSession(BatchingSession):
    """Made by `open_scylla`."""

    def __init__(
        self, settings: CqlSettings, cluster: Cluster, driver: DriverSession, threads: Any
    ) -> None:
        super().__init__(settings)
        self._cluster = cluster
        self._driver = driver
        self._threads: ThreadPoolExecutor = threads
        self._profiles = {
            (level, speculative): profile_name(level, speculative)
            for level in Consistency
            for speculative in (False, True)
        }
        self._landed: deque[tuple[_Call, Any, BaseException | None]] = deque()
        self._woken = False

    async def read(self, statement: Statement, parameters: Sequence[Any] = ()) -> list[tuple]:
        pages = await self._call(statement, parameters)
        return pages[0] if len(pages) == 1 else [row for page in pages for row in page]

    async def read_packed(self, statement: Statement, parameters: Sequence[Any] = ()) -> bytes:
        pages = await self._call(statement, parameters)
        rows = chain.from_iterable(pages)
        return pack_values(list(chain.from_iterable(rows)), statement)

    async def write(self, statement: Statement, parameters: Sequence[Any] = ()) -> None:
        await self._call(statement, parameters)

    async def insert_if_absent(
        self, statement: Statement, parameters: Sequence[Any] = ()
    ) -> dict[str, Any] | None:
        pages = await self._call(statement, parameters, _LWT)
        row = pages[0][0]
        return None if row.pop("[applied]") else row

    async def batch(self, writes: Sequence[Write], *, logged: bool) -> None:
        kind = BatchType.LOGGED if logged else BatchType.UNLOGGED
        level = strongest(writes)
        batch = BatchStatement(kind, consistency_level=LEVELS[level])
        batch.is_idempotent = True
        for write in writes:
            prepared = self._prepared.get(write.statement) or await self._prepare(write.statement)
            batch.add(_bound(prepared, write.statement, write.parameters))
        await self._send(batch, self._profiles[level, False], f"batch of {len(writes)}")

    async def define(self, cql: str) -> None:
        """A schema statement, not prepared. Returns when the nodes agree on the schema, as far as
        the driver waits for that.
        """
        query = SimpleStatement(cql, consistency_level=ConsistencyLevel.LOCAL_QUORUM)
        await self._send(query, "define", cql[:80])

    async def _end(self) -> None:
        await self._loop.run_in_executor(self._threads, self._cluster.shutdown)
        self._threads.shutdown(wait=False)

    async def _call(
        self,
        statement: Statement,
        parameters: Sequence[Any],
        profile: str | None = None,
    ) -> list[Any]:
        """The result's pages."""
        prepared = self._prepared.get(statement) or await self._prepare(statement)
        bound = _bound(prepared, statement, parameters)
        profile = profile or self._profiles[statement.consistency, statement.speculative]
        return await self._send(bound, profile, statement.cql)

    async def _send(self, query: Any, profile: str, what: str) -> list[Any]:
        if self._closed:
            raise Unavailable("the CQL session is closed")
        if not self._flight.try_enter():
            await self._flight.enter()
        try:
            response = self._driver.execute_async(query, execution_profile=profile)
        except Exception as error:
            self._flight.leave()
            raise_mapped(error, what)
        call = _Call(self._loop.create_future(), response)
        response.add_callbacks(self._on_rows, self._on_error, (call,), {}, (call,), {})
        try:
            return await call.answer
        except Exception as error:
            raise_mapped(error, what)

    def _on_rows(self, rows: Any, call: _Call) -> None:
        """On the reactor thread."""
        self._landed.append((call, rows, None))
        self._wake()

    def _on_error(self, error: BaseException, call: _Call) -> None:
        """On the reactor thread."""
        self._landed.append((call, None, error))
        self._wake()

    def _wake(self) -> None:
        # a burst wakes the loop once: it clears the mark before it looks
        if not self._woken:
            self._woken = True
            self._loop.call_soon_threadsafe(self._take_landed)

    def _take_landed(self) -> None:
        self._woken = False
        landed = self._landed
        while landed:
            call, rows, error = landed.popleft()
            if error is None:
                error = self._take_page(call, rows)
                if error is None and call.response is not None:
                    continue  # its next page is under way
            self._flight.leave()
            call.response = None  # it refers to the call
            if call.answer.done():
                continue  # its caller has gone
            if error is None:
                call.answer.set_result(call.pages)
            else:
                call.answer.set_exception(error)

    def _take_page(self, call: _Call, rows: Any) -> BaseException | None:
        """Asks for the next page, or marks the call as whole."""
        call.pages.append(rows)
        response = call.response
        if response is None or call.answer.done() or not response.has_more_pages:
            call.response = None
            return None
        try:
            response.start_fetching_next_page()
        except Exception as error:
            return error
        return None

    async def _prepare_now(self, cql: str) -> PreparedStatement:
        try:
            prepared = await self._loop.run_in_executor(self._threads, self._driver.prepare, cql)
        except Exception as error:
            raise_mapped(error, cql)
        prepared.is_idempotent = True
        prepared.fetch_size = FETCH_SIZE
        return prepared


def raise_mapped(error: BaseException, what: str) -> NoReturn:
    """As Unavailable or StoreError. Not for `asyncio.CancelledError`."""
    if isinstance(error, ErrorMessage) and not isinstance(error, _TRANSIENT):
        raise StoreError(f"{error.summary_msg()}: {what}") from error
    if isinstance(error, _TRANSIENT):
        raise Unavailable(f"CQL: {describe(error)}: {what}") from error
    if isinstance(error, DriverException | RequestExecutionException | Unauthorized):
        raise StoreError(f"CQL: {describe(error)}: {what}") from error
    raise error


def describe(error: BaseException) -> str:
    """One line, with what each node said."""
    if isinstance(error, NoHostAvailable):
        errors = error.errors if isinstance(error.errors, dict) else {}
        said = {f"{node}: {one}" for node, one in errors.items()}
        return "no node answered" + (f" ({'; '.join(sorted(said))})" if said else "")
    return f"{type(error).__name__}: {error}"


def _bound(
    prepared: PreparedStatement, statement: Statement, parameters: Sequence[Any]
) -> BoundStatement:
    wanted = len(prepared.column_metadata)
    if len(parameters) != wanted:  # the driver would leave the last ones as they are in the row
        raise StoreError(f"CQL: {len(parameters)} parameters; {wanted} wanted: {statement.cql}")
    try:
        return prepared.bind(parameters)
    except (TypeError, ValueError, OverflowError, DriverException) as error:
        raise StoreError(f"CQL: parameters do not fit: {error}: {statement.cql}") from error


def _profiles(settings: CqlSettings) -> dict[str, ExecutionProfile]:
    def profile(level: Consistency, **more: Any) -> ExecutionProfile:
        return ExecutionProfile(
            load_balancing_policy=TokenAwarePolicy(DCAwareRoundRobinPolicy(settings.local_dc)),
            consistency_level=LEVELS[level],
            serial_consistency_level=ConsistencyLevel.LOCAL_SERIAL,
            **{"request_timeout": settings.request_timeout_s, "row_factory": tuple_factory, **more},
        )

    again = ConstantSpeculativeExecutionPolicy(SPECULATIVE_DELAY_MS / 1_000, SPECULATIVE_MAX)
    profiles = {
        _LWT: profile(Consistency.QUORUM, row_factory=dict_factory),
        "define": profile(Consistency.QUORUM, request_timeout=SCHEMA_AGREEMENT_S),
    }
    for level in Consistency:
        profiles[profile_name(level, False)] = profile(level)
        profiles[profile_name(level, True)] = profile(level, speculative_execution_policy=again)
    return profiles


def _cluster(settings: CqlSettings) -> Cluster:
    points = addresses(settings.contact_points)
    profiles = _profiles(settings)
    profiles["default"] = profiles[profile_name(Consistency.QUORUM, False)]
    login = PlainTextAuthProvider(settings.user, settings.password) if settings.user else None
    return Cluster(
        contact_points=points,
        port=points[0][1],
        auth_provider=login,
        ssl_context=tls_context(settings),
        execution_profiles=profiles,
        reconnection_policy=ConstantReconnectionPolicy(RECONNECT_MS / 1_000, max_attempts=None),
        connect_timeout=settings.connect_timeout_s,
        control_connection_timeout=settings.connect_timeout_s,
        idle_heartbeat_interval=HEARTBEAT_S,
        idle_heartbeat_timeout=SILENT_S,
        max_schema_agreement_wait=SCHEMA_AGREEMENT_S,
        compression=False,
    )


async def open_scylla(settings: CqlSettings) -> ScyllaSession:
    """Connects. Unavailable if no contact point answers, StoreError if one refuses."""
    loop = asyncio.get_running_loop()
    threads = ThreadPoolExecutor(THREADS, thread_name_prefix="cql")
    cluster = _cluster(settings)
    connect: Callable[[], DriverSession] = partial(cluster.connect, settings.keyspace or None)
    connecting = loop.run_in_executor(threads, connect)
    try:
        driver = await asyncio.wait_for(asyncio.shield(connecting), OPEN_TIMEOUT_S)
        return ScyllaSession(settings, cluster, driver, threads)
    except BaseException as error:
        connecting.add_done_callback(lambda done: done.cancelled() or done.exception())
        keyspaces = set(cluster.metadata.keyspaces)
        threads.submit(cluster.shutdown)
        threads.shutdown(wait=False)
        _raise_not_open(error, settings, keyspaces)


def _raise_not_open(
    error: BaseException, settings: CqlSettings, keyspaces: Collection[str]
) -> NoReturn:
    points = ", ".join(settings.contact_points)
    said = [error]
    if isinstance(error, NoHostAvailable) and isinstance(error.errors, dict):
        said = list(error.errors.values())
    if keyspaces and settings.keyspace and settings.keyspace not in keyspaces:
        raise no_keyspace(settings) from error
    if any(isinstance(one, AuthenticationFailed) for one in said):
        raise StoreError(f"CQL at {points}: the user {settings.user!r} is refused") from error
    if isinstance(error, TimeoutError):
        raise Unavailable(f"CQL at {points}: no answer within {OPEN_TIMEOUT_S:g} s") from error
    if isinstance(error, Exception):
        raise_mapped(error, f"connecting to {points}, keyspace {settings.keyspace or 'none'!r}")
    raise error
