"""What the engine needs from the outside, as typing.Protocols. One contract suite per port in
tests/contract.

Conventions, for every port:

* ids are unsigned 64-bit integers; times are integer milliseconds since 1970;
* an *id array* is `bytes`: unsigned 64-bit little-endian integers, ascending, no duplicates;
* *entries* is `bytes`: packed 20-byte feed entries (`domain.entry`), newest first, no duplicates;
* every write is durable when its coroutine returns, and idempotent by key;
* a read sees every write that was acknowledged before it began, by whichever process of the node,
  in a cluster by whichever node (`cache_validation` has the one step that this takes);
* reads that may go over a network are coroutines. Those of a local store never suspend: between two
  of them nothing else runs;
* reads that are not coroutines (tombstones, pulled authors, settings, trending, engagement) are of
  small things that each process replicates; they never wait.
"""

from feedcore.domain.jobs import JobKind, Lane
from feedcore.domain.publish_plan import NewPost
from feedcore.ports.cache_validation import CacheValidation
from feedcore.ports.content import Content, ContentSource
from feedcore.ports.events import EventSink
from feedcore.ports.feeds import Delivery, FeedStore, Window
from feedcore.ports.graph import Followees, GraphPage, GraphSource
from feedcore.ports.page_cache import PageCache, StalePage
from feedcore.ports.posts import Post, PostStats, PostStore, Published, Timelines
from feedcore.ports.preferences import Preference, PreferenceKind, PreferenceStore, ViewerFilters
from feedcore.ports.queue import DeadLetter, FanoutJob, FanoutQueue, QueueLag
from feedcore.ports.ranker import Candidate, Ranker, Scores
from feedcore.ports.settings import SettingsStore
from feedcore.ports.signals import ImportedCounts, Interaction, InteractionKind, SignalStore

__all__ = [
    "CacheValidation",
    "Candidate",
    "Content",
    "ContentSource",
    "DeadLetter",
    "Delivery",
    "EventSink",
    "FanoutJob",
    "FanoutQueue",
    "FeedStore",
    "Followees",
    "GraphPage",
    "GraphSource",
    "ImportedCounts",
    "Interaction",
    "InteractionKind",
    "JobKind",
    "Lane",
    "NewPost",
    "PageCache",
    "Post",
    "PostStats",
    "PostStore",
    "Preference",
    "PreferenceKind",
    "PreferenceStore",
    "Published",
    "QueueLag",
    "Ranker",
    "Scores",
    "SettingsStore",
    "SignalStore",
    "StalePage",
    "Timelines",
    "ViewerFilters",
    "Window",
]
