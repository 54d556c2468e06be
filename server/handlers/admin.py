"""feedcore.v1.AdminService."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict
from operator import attrgetter
from typing import NamedTuple

from feedcore import __version__
from feedcore.clock import Clock
from feedcore.domain.experiments import Arm, RankingConfig
from feedcore.domain.ranking import RankingParameters
from feedcore.errors import FeedcoreError, InvalidField
from feedcore.limits import LIST_PAGE_MAX
from feedcore.observe import metrics
from feedcore.ports.finding import State
from feedcore.services.admin import AdminService
from feedcore.services.audit import AuditService
from feedcore.services.explain import ExplainService
from feedcore.services.hot import HotSettings
from feedcore.services.importing import ImportBatch, ImportService, InteractionRow, PostRow
from feedcore_pb.v1 import admin_pb2 as pb
from feedcore_server.context import CallContext
from feedcore_server.limits import AUDIT_SHARE, REPLAY_JOBS_MAX
from feedcore_server.registry import Handlers
from feedcore_server.status import outcome_of

# Values of a message, in the order of a row's columns.
POST_FIELDS = attrgetter(*(one.name for one in pb.ImportPost.DESCRIPTOR.fields))
INTERACTION_FIELDS = attrgetter(*(one.name for one in pb.ImportInteraction.DESCRIPTOR.fields))


class StoreFault(FeedcoreError):
    """What is wrong with the store, as status says it."""


class AdminServices(NamedTuple):
    """What the handlers need; `figures` reads the metrics of all processes."""

    admin: AdminService
    explain: ExplainService
    audit: AuditService
    importing: ImportService
    clock: Clock
    fault: Callable[[], str]
    figures: Callable[[], metrics.Figures] = metrics.figures


class AdminHandlers(Handlers):
    """See the service in its .proto file."""

    SERVICE = pb.DESCRIPTOR.services_by_name["AdminService"]

    def __init__(self, services: AdminServices) -> None:
        self._services = services
        self._admin = services.admin

    async def get_status(
        self, _request: pb.GetStatusRequest, _call: CallContext
    ) -> pb.GetStatusResponse:
        """Everything an operator asks first; a component that fails is reported, the others all the
        same."""
        fault = ""
        try:
            figures = self._services.figures()
        except Exception as error:  # the files of all processes; the components are to be seen
            figures, fault = metrics.summarize([]), outcome_of(error, "").message
        now_ms = self._services.clock.now_ms()
        up_s = max((now_ms - figures.started_ms) / 1_000, 1.0) if figures.started_ms else 1.0
        reply = pb.GetStatusResponse(
            version=__version__,
            started_ms=figures.started_ms,
            workers=figures.processes,
            deliveries=figures.deliveries,
        )
        for row in figures.operations:
            reply.operations.add(rate=row.calls / up_s, **row._asdict())
        await self._report(reply, "store", self._store_status)
        await self._report(reply, "feeds", self._feeds_status)
        await self._report(reply, "fanout", self._fanout_status)
        if figures.connections:
            spread = ", ".join(str(count) for count in figures.connections)
            detail = f"{sum(figures.connections)} open; by worker: {spread}"
            reply.components.add(name="connections", ok=True, detail=detail)
        _report_files(reply, figures, fault)
        reply.components.add(name="timeline cache", ok=True, detail=_cache_detail(figures))
        for one in await self._admin.findings():
            detail = f"{one.detail} -> {one.mend}" if one.mend else one.detail
            name = f"{one.engine}: {one.what}"
            reply.components.add(name=name, ok=one.state is not State.DOWN, detail=detail)
        return reply

    async def _report(
        self,
        reply: pb.GetStatusResponse,
        name: str,
        read: Callable[[pb.GetStatusResponse], Awaitable[str]],
    ) -> None:
        try:
            reply.components.add(name=name, detail=await read(reply), ok=True)
        except Exception as error:
            # What the machine says, too: the other components are to be seen in any case.
            reply.components.add(name=name, ok=False, detail=outcome_of(error, "").message)

    async def _store_status(self, reply: pb.GetStatusResponse) -> str:
        if fault := self._services.fault():
            raise StoreFault(fault)
        counts = await self._admin.store_counts()
        for name, value in counts.items():
            reply.store[name] = value
        if "posts" not in counts:
            return "answers; its tables are too large to count"
        return f"{counts['posts']} posts, {counts['follows']} follows"

    async def _feeds_status(self, reply: pb.GetStatusResponse) -> str:
        reply.merge_backlog = self._admin.backlog()
        if damaged := reply.store["damaged_days"]:
            raise StoreFault(f"{damaged} days are damaged: pages are pulled while they are derived")
        return f"{reply.merge_backlog} deliveries to merge"

    async def _fanout_status(self, reply: pb.GetStatusResponse) -> str:
        for lane, (lag, paused) in (await self._admin.lanes()).items():
            reply.lanes.add(
                name=lane.name.lower(), jobs=lag.jobs, lag_ms=lag.oldest_ms, paused=paused
            )
        reply.dead_letters = len(await self._admin.dead_letters(LIST_PAGE_MAX))
        jobs = sum(lane.jobs for lane in reply.lanes)
        return f"{jobs} jobs, {reply.dead_letters} dead letters"

    async def get_ranking(
        self, request: pb.GetRankingRequest, _call: CallContext
    ) -> pb.RankingConfig:
        """The configuration in force, or an older one."""
        return ranking_message(await self._admin.get_ranking(request.version))

    async def set_ranking(
        self, request: pb.SetRankingRequest, call: CallContext
    ) -> pb.RankingConfig:
        """Validated as a whole, then in force for every worker."""
        if not request.HasField("config"):
            raise InvalidField("config", "absent", "must be given, with all parameters")
        expected = request.expected_version if request.HasField("expected_version") else None
        config = await self._admin.set_ranking(ranking_config(request.config), expected)
        call.note(ranking_version=config.version)
        return ranking_message(config)

    async def get_settings(
        self, _request: pb.GetSettingsRequest, _call: CallContext
    ) -> pb.HotSettings:
        """The hot settings in force."""
        return settings_message(await self._admin.get_settings())

    async def set_settings(
        self, request: pb.SetSettingsRequest, call: CallContext
    ) -> pb.HotSettings:
        """Changes the fields that are set."""
        changes = {field.name: value for field, value in request.ListFields()}
        hot = await self._admin.set_settings(**changes)
        call.note(settings_version=hot.version)
        return settings_message(hot)

    async def list_dead_letters(
        self, request: pb.ListDeadLettersRequest, call: CallContext
    ) -> pb.ListDeadLettersResponse:
        """Jobs that failed for good."""
        reply = pb.ListDeadLettersResponse()
        for job, error, failed_ms in await self._admin.dead_letters(request.limit):
            reply.dead_letters.add(
                job_id=job.job_id,
                kind=job.kind.value,
                content_id=job.content_id,
                author_id=job.author_id,
                user_id=job.user_id,
                attempts=job.attempts,
                error=error,
                failed_ms=failed_ms,
            )
        call.note(items=len(reply.dead_letters))
        return reply

    async def replay_dead_letters(
        self, request: pb.ReplayDeadLettersRequest, call: CallContext
    ) -> pb.ReplayDeadLettersResponse:
        """Back into the queue."""
        if len(request.job_ids) > REPLAY_JOBS_MAX:
            raise InvalidField(
                "job_ids",
                f"{len(request.job_ids)} ids",
                f"at most {REPLAY_JOBS_MAX}; none means all",
            )
        replayed = await self._admin.replay(list(request.job_ids))
        call.note(items=replayed)
        return pb.ReplayDeadLettersResponse(replayed=replayed)

    async def rebuild_feed(
        self, request: pb.RebuildFeedRequest, call: CallContext
    ) -> pb.RebuildFeedResponse:
        """Queues the refill of one feed."""
        call.user_id = request.user_id
        await self._admin.rebuild_feed(request.user_id)
        return pb.RebuildFeedResponse()

    async def explain(self, request: pb.ExplainRequest, call: CallContext) -> pb.ExplainResponse:
        """Why one item is, or is not, in one feed."""
        call.user_id = request.user_id
        told = await self._services.explain.explain(request.user_id, request.content_id)
        filters = [pb.FilterVerdict(name=name, dropped=dropped) for name, dropped in told.filters]
        terms = [pb.ScoreTerm(name=name, value=value) for name, value in told.terms]
        return pb.ExplainResponse(**{**asdict(told), "filters": filters, "terms": terms})

    async def audit(self, request: pb.AuditRequest, call: CallContext) -> pb.AuditResponse:
        """In slices, between which other calls are answered; a caller who hangs up ends it."""
        report = await self._services.audit.audit(request.sample, request.seed, AUDIT_SHARE)
        call.note(items=report.users, missing=report.missing, duplicate=report.duplicate)
        return pb.AuditResponse(**asdict(report))

    async def import_(
        self, requests: AsyncIterator[pb.ImportBatch], call: CallContext
    ) -> AsyncIterator[pb.ImportReceipt]:
        """One receipt a batch, in order; a receipt is sent when its batch is on disk."""
        batches = applied = refused = 0
        async for batch in requests:
            outcome = await self._services.importing.apply(import_rows(batch))
            batches += 1
            applied += outcome.applied
            refused += len(outcome.refused)
            call.note(batches=batches, items=applied, refused=refused)
            receipt = pb.ImportReceipt(
                batch_id=batch.batch_id, applied=outcome.applied, unchanged=outcome.unchanged
            )
            for one in outcome.refused:
                receipt.refused.add(list=one.list_name, index=one.index, reason=one.reason)
            yield receipt


def import_rows(batch: pb.ImportBatch) -> ImportBatch:
    """A batch as plain rows."""
    return ImportBatch(
        follows=[(row.follower_id, row.followee_id) for row in batch.follows],
        mutes=[(row.user_id, row.target_user_id) for row in batch.mutes],
        posts=[PostRow(*POST_FIELDS(row)) for row in batch.posts],
        interactions=[InteractionRow(*INTERACTION_FIELDS(row)) for row in batch.interactions],
    )


def ranking_config(message: pb.RankingConfig) -> RankingConfig:
    """A configuration as sent; not validated yet."""
    return RankingConfig(
        0,
        _parameters(message.parameters),
        message.experiment,
        tuple(Arm(arm.name, arm.weight, _parameters(arm.parameters)) for arm in message.arms),
    )


def ranking_message(config: RankingConfig) -> pb.RankingConfig:
    """A configuration as it is sent."""
    return pb.RankingConfig(version=config.version, **config.to_document())


def _parameters(message: pb.RankingParameters) -> RankingParameters:
    return RankingParameters(**{name: getattr(message, name) for name in RankingParameters.BOUNDS})


def settings_message(hot: HotSettings) -> pb.HotSettings:
    """Hot settings as they are sent."""
    return pb.HotSettings(**asdict(hot))


def _report_files(reply: pb.GetStatusResponse, figures: metrics.Figures, fault: str) -> None:
    """What workers say of themselves: callers would be refused. `fault`: why they cannot be
    heard."""
    if fault:
        reply.components.add(name="metrics", ok=False, detail=fault)
        return
    full = figures.not_ready.get("calls", 0)
    if full:
        detail = f"{full} workers refuse calls: as many are at work as may be"
        reply.components.add(name="calls", ok=False, detail=detail)
    detail = f"limit {figures.files_limit} a process"
    if figures.files_short:
        detail = (
            f"{figures.files_short} processes have too few; limit {figures.files_limit}: raise the"
            " hard limit (ulimit -Hn, LimitNOFILE= of systemd)"
        )
    reply.components.add(name="open files", ok=not figures.files_short, detail=detail)


def _cache_detail(figures: metrics.Figures) -> str:
    """Of all workers since the server started."""
    reads = figures.timeline_hits + figures.timeline_misses
    share = 100 * figures.timeline_hits / reads if reads else 0.0
    return f"{figures.timeline_hits} hits, {figures.timeline_misses} misses, {share:.1f} % hits"
