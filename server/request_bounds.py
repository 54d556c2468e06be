"""What each request may hold: entries of every list and map, bytes of every string.

From these and the descriptors follow, for each method, the bytes of its largest request (3,367 of a
GetFeed), and what is counted before a request is parsed (feedcore.codecs.bounds). They are the
domain's own bounds, and only keep the work within them: which body is too long, and which rows of
an import are bad, is for services to say. A method whose request has a list or string that is not
named here cannot be served (Registry.add_service).
"""

from __future__ import annotations

from feedcore.codecs.bounds import Bound, Policy
from feedcore.domain.experiments import NAME_CHARS_MAX
from feedcore.limits import (
    BODY_CHARS_MAX,
    CURSOR_BYTES_MAX,
    EXPERIMENT_ARMS_MAX,
    IDEMPOTENCY_KEY_BYTES_MAX,
    IMPORT_BATCH_ROWS_MAX,
    LIST_PAGE_MAX,
    MEDIA_MIME_BYTES_MAX,
    MEDIA_REFS_MAX,
    MEDIA_URI_BYTES_MAX,
    WINDOW_ENTRIES,
)
from feedcore_server.limits import (
    CONTENTS_BATCH_MAX,
    ETAG_BYTES_MAX,
    PAGE_TOKEN_BYTES_MAX,
    REPLAY_JOBS_MAX,
    REQUEST_BYTES_MAX,
    REQUEST_SPARE_BYTES,
    SYMBOL_BYTES_MAX,
)

UTF8_BYTES = 4  # of one character, at most

_CURSOR = Bound(size=CURSOR_BYTES_MAX)
_KEY = Bound(size=IDEMPOTENCY_KEY_BYTES_MAX)
_NAME = Bound(size=NAME_CHARS_MAX * UTF8_BYTES)
_TOKEN = Bound(size=PAGE_TOKEN_BYTES_MAX)
_SYMBOL = Bound(size=SYMBOL_BYTES_MAX)
_ROWS = Bound(entries=IMPORT_BATCH_ROWS_MAX, shared="rows")
# Of a row: it is refused by itself, with its place, whatever its length; the message bounds it.
_OF_ROW = Bound(size=REQUEST_BYTES_MAX)

_REFLECTION = "grpc.reflection.v1alpha.ServerReflectionRequest"
FIELDS: dict[str, Bound] = {
    "feedcore.v1.GetFeedRequest.cursor": _CURSOR,
    "feedcore.v1.GetFeedRequest.if_none_match": Bound(size=ETAG_BYTES_MAX),
    "feedcore.v1.CheckNewRequest.head": _CURSOR,
    "feedcore.v1.RecordInteractionRequest.idempotency_key": _KEY,
    "feedcore.v1.PublishRequest.body": Bound(size=BODY_CHARS_MAX * UTF8_BYTES),
    "feedcore.v1.PublishRequest.media": Bound(entries=MEDIA_REFS_MAX),
    "feedcore.v1.PublishRequest.idempotency_key": _KEY,
    "feedcore.v1.MediaRef.uri": Bound(size=MEDIA_URI_BYTES_MAX),
    "feedcore.v1.MediaRef.mime_type": Bound(size=MEDIA_MIME_BYTES_MAX),
    "feedcore.v1.RankingConfig.experiment": _NAME,
    "feedcore.v1.RankingConfig.arms": Bound(entries=EXPERIMENT_ARMS_MAX),
    "feedcore.v1.ExperimentArm.name": _NAME,
    "feedcore.v1.ReplayDeadLettersRequest.job_ids": Bound(entries=REPLAY_JOBS_MAX),
    "feedcore.v1.ImportBatch.follows": _ROWS,
    "feedcore.v1.ImportBatch.mutes": _ROWS,
    "feedcore.v1.ImportBatch.posts": _ROWS,
    "feedcore.v1.ImportBatch.interactions": _ROWS,
    "feedcore.v1.ImportPost.post_key": _OF_ROW,
    "feedcore.v1.ImportPost.body": _OF_ROW,
    "feedcore.v1.ImportInteraction.post_key": _OF_ROW,
    "feedcore.v1.ImportInteraction.kind": _OF_ROW,
    "feedcore.collaborators.v1.ListFollowersRequest.page_token": _TOKEN,
    "feedcore.collaborators.v1.ListFolloweesRequest.page_token": _TOKEN,
    "feedcore.collaborators.v1.GetFollowerCountsRequest.user_ids": Bound(entries=LIST_PAGE_MAX),
    "feedcore.collaborators.v1.BatchGetContentsRequest.content_ids": Bound(
        entries=CONTENTS_BATCH_MAX
    ),
    "feedcore.collaborators.v1.ScoreRequest.candidates": Bound(entries=WINDOW_ENTRIES),
    # "experiment/arm"
    "feedcore.collaborators.v1.ScoreRequest.experiment_arm": Bound(size=2 * _NAME.size + 1),
    "grpc.health.v1.HealthCheckRequest.service": _SYMBOL,
    f"{_REFLECTION}.host": _SYMBOL,
    f"{_REFLECTION}.file_by_filename": _SYMBOL,
    f"{_REFLECTION}.file_containing_symbol": _SYMBOL,
    "grpc.reflection.v1alpha.ExtensionRequest.containing_type": _SYMBOL,
    f"{_REFLECTION}.all_extension_numbers_of_type": _SYMBOL,
    f"{_REFLECTION}.list_services": _SYMBOL,
}

REQUESTS = Policy(FIELDS, REQUEST_BYTES_MAX, REQUEST_SPARE_BYTES)
