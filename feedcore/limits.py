"""Every bound of the engine, with its reason; relations between bounds are asserted at import.

Units are in the names. What an operator may change at run time is not here but in
`feedcore.config`.
"""

from __future__ import annotations

SECOND_MS = 1_000
MINUTE_MS = 60 * SECOND_MS
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS

USER_ID_MAX = 2**63 - 1  # of every id: stores keep signed 64-bit integers

# --- pages ----------------------------------------------------------------------------------------
PAGE_SIZE_DEFAULT = 20  # a phone shows 3 to 6 items at once: three to six screens a call
PAGE_SIZE_MAX = 100  # at 2.5 KB an item this keeps a reply below 1 MB
WINDOW_ENTRIES = 500  # W: candidates one page is ranked from; 10 KB of packed entries
# windows one call may read when filters empty them: 10,000 entries, then a short page
REFILL_WINDOWS_MAX = 20
# ids a cursor carries; 192 deltas of at most 7 bytes stay below CURSOR_BYTES_MAX
SERVED_SET_MAX = 192
CURSOR_BYTES_MAX = 2_048  # cursors travel in URLs and metadata of callers
CHECK_NEW_COUNT_MAX = 99  # user interfaces print "99+"
TRENDING_ENTRIES = WINDOW_ENTRIES  # the cold-start feed is ranked like any other window

# --- caches of a worker ---------------------------------------------------------------------------
# entries that a window grows by when a scroll goes below it: five pages, so that deep scrolls load
# once in five pages
WINDOW_STEP_ENTRIES = 250
# a cached page is served at most so old. It lacks nothing and shows nothing it should not at any
# age; only its order and its counts age
PAGE_AGE_MAX_MS = 30 * SECOND_MS
PAGE_SOFT_AGE_MS = 10 * SECOND_MS  # from here on a newer page is generated behind the call
REFRESH_QUEUE_MAX = 1_024  # pages past their soft age that wait for a newer one; others age
# different pages whose impressions wait to be counted; more are dropped and counted as dropped
SHOWN_PAGES_MAX = 20_000
# answers of one kind that are loaded together: an IN list of this length stays in SQLite's
# statement cache
LOAD_BATCH_MAX = 500
# timelines or posts that one page may lack to be loaded at once, within the read turn, where the
# store is local: 10 us each; beyond that a batch with other calls costs less
LOAD_NOW_MAX = 8
LOADS_WAITING_MAX = 10_000  # keys that wait for one batch; more are refused as overload

# --- retention ------------------------------------------------------------------------------------
RETENTION_MS = 7 * DAY_MS  # feed items and timelines
CURSOR_AGE_MAX_MS = RETENTION_MS  # an older cursor points below everything that is kept
IDEMPOTENCY_AGE_MAX_MS = RETENTION_MS  # callers retry for hours, not weeks
# a publish time further ahead than this is a broken clock, not skew
CLOCK_AHEAD_MAX_MS = 5 * SECOND_MS

# --- posts ----------------------------------------------------------------------------------------
BODY_CHARS_MAX = 10_000
MEDIA_REFS_MAX = 10
MEDIA_URI_BYTES_MAX = 2_048
MEDIA_MIME_BYTES_MAX = 128  # RFC 6838 allows 127 for each half; real ones are below 80
IDEMPOTENCY_KEY_BYTES_MAX = 128  # a UUID is 36

# --- graph ----------------------------------------------------------------------------------------
# packed: 800 KB, read whole on each load; twice the largest account we serve
FOLLOWEES_MAX = 100_000
LIST_PAGE_MAX = 1_000  # ids a page of ListFollowers and ListFollowees
# timelines one load merges: an empty one costs 2 us, a full one 6 us; of more than these, the most
# engaged with
PULLED_SOURCES_MAX = 2_000
TIMELINE_CACHE_BYTES = 64 * 1024 * 1024  # 100,000 authors with 25 posts a week each

# --- preferences ----------------------------------------------------------------------------------
# mutes, snoozes, hides, blocks of one user: 80 KB read on each load
PREFERENCES_PER_USER_MAX = 10_000
SNOOZE_MAX_MS = 365 * DAY_MS
AFFINITY_AUTHORS_MAX = 256  # authors whose engagement history is kept for a user: 3 KB

# --- push or pull ---------------------------------------------------------------------------------
PUSH_THRESHOLD_MAX = 2**32  # more than there are people
HYSTERESIS_PERCENT_MAX = 50  # more would keep an author pulled that lost half of the followers

# --- fan-out --------------------------------------------------------------------------------------
FANOUT_QUOTA_FOLLOWERS = 10_000  # followers of one post delivered in a turn: 80 KB a delivery row
REBUILD_FOLLOWEES_PER_TURN = 500  # timelines a rebuild reads in one turn: about 10 ms
BACKFILL_ENTRIES_MAX = 100_000  # entries of one author in 7 days; one every six seconds
FANOUT_JOBS_PER_TURN = 64  # posts that share a turn (and its fsync)
FANOUT_ATTEMPTS_MAX = 5  # then the job is a dead letter
# below this one lane delivers to everybody: a second pass would cost more
LANE_SPLIT_FOLLOWERS = 1_000
MERGE_DELIVERIES_MAX = 1_000_000  # deliveries sorted at once: 28 MB
# unmerged deliveries; above it expansion waits (readers overlay posts anyway)
DELIVERY_BACKLOG_MAX = 20_000_000
RECENTLY_ACTIVE_MS = 1 * DAY_MS  # followers seen since go first
INACTIVE_AFTER_MS = 30 * DAY_MS  # followers not seen since are skipped and rebuilt on return

# --- queues inside a process ----------------------------------------------------------------------
# writes waiting for the group commit; more are refused with RESOURCE_EXHAUSTED
WRITE_QUEUE_MAX = 4_096
WRITE_BATCH_MAX = 512  # writes that share one commit: bounds the time a commit holds the write lock
# impressions waiting to be counted; more are dropped and counted as dropped
IMPRESSION_BUFFER_MAX = 100_000
COUNTER_BATCH = 5_000  # interactions applied to counters in one transaction

IMPORT_BATCH_ROWS_MAX = 5_000  # rows of one bulk-load batch: one commit of about 50 ms
POLICY_BATCH = 1_000  # authors whose mode changes in one commit
AUDIT_USERS_MAX = 10_000
AUDIT_FINDINGS_MAX = 20

# --- store ----------------------------------------------------------------------------------------
# posts with engagement that ranking can look up: 16 MB, two weeks at one a second
ENGAGEMENT_SLOTS = 1 << 20
# read at once when a run is compared with its checksums: some 3 ms of processor time
RUN_CHECK_PIECE_BYTES = 4 * 1024 * 1024
# of run files, compared with their checksums each second: 1 % of a core, 2 GB in two minutes
RUN_CHECK_BYTES_PER_S = 16 * 1024 * 1024
# free space below which publishes are refused, so that merging can go on
DISK_RESERVE_BYTES = 64 * 1024 * 1024
# posts, counts and interactions; callers may ask for a post that left the feeds
POST_AGE_MAX_MS = 30 * DAY_MS
# one day longer than anything that could still point at the item
TOMBSTONE_AGE_MAX_MS = RETENTION_MS + DAY_MS

# --- ranking versions -----------------------------------------------------------------------------
RANKING_VERSIONS_KEPT = 1_000  # versions a cursor may still name
EXPERIMENT_ARMS_MAX = 16

assert PAGE_SIZE_DEFAULT <= PAGE_SIZE_MAX <= SERVED_SET_MAX <= WINDOW_ENTRIES
assert CURSOR_AGE_MAX_MS <= RETENTION_MS <= TOMBSTONE_AGE_MAX_MS
# 7 low bytes an id, a bit vector of 192 + 2^63 / 2^56 bits for the high ones (Elias-Fano), and 76
# bytes of header and signature, in base64 (4/3)
assert (SERVED_SET_MAX * 7 + (SERVED_SET_MAX + 128) // 8 + 1 + 76) * 4 // 3 < CURSOR_BYTES_MAX
assert PAGE_SOFT_AGE_MS < PAGE_AGE_MAX_MS
assert RECENTLY_ACTIVE_MS < INACTIVE_AFTER_MS
assert FANOUT_JOBS_PER_TURN * FANOUT_QUOTA_FOLLOWERS <= MERGE_DELIVERIES_MAX
assert MERGE_DELIVERIES_MAX < DELIVERY_BACKLOG_MAX
assert WRITE_BATCH_MAX <= WRITE_QUEUE_MAX
