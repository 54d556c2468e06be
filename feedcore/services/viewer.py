"""Everything about one viewer that a page needs: whom they follow, what they hide, how they are
ranked.

Read anew for each call, so that a mute, hide or unfollow acknowledged anywhere is in force on the
next page.
"""

from __future__ import annotations

from dataclasses import dataclass

from feedcore import native
from feedcore.domain.experiments import RankingConfig
from feedcore.domain.ranking import AFFINITY, RankingParameters, affinity_of
from feedcore.domain.visibility import Audience
from feedcore.errors import InvalidCursor, Overloaded, Unavailable
from feedcore.ports import Followees, GraphSource, PreferenceStore, SettingsStore, ViewerFilters

RANKING = "ranking"  # name of the settings document that holds ranking configurations


@dataclass(frozen=True, slots=True)
class Viewer:
    """One user as a reader, at one moment."""

    user_id: int
    followees: bytes
    filters: ViewerFilters
    ranking_version: int
    parameters: RankingParameters
    experiment_arm: str
    graph_stale_ms: int = 0  # how old `followees` is; 0: current
    graph_error: str = ""  # why `followees` is not known, and empty

    def audience(self, require_follow: bool) -> Audience:
        """The filter sets for `native.judge`; without `require_follow` for items from anywhere
        (trending).
        """
        return Audience(
            self.user_id,
            self.followees,
            self.filters.muted,
            self.filters.snoozed,
            self.filters.blocked,
            self.filters.hidden,
            require_follow,
        )

    def affinity_to(self, author_id: int) -> float:
        """Share of the viewer's interactions that went to the author: 0 to 1."""
        return affinity_of(self.filters.affinity, author_id)

    def most_engaged(self, authors: list[int], limit: int) -> list[int]:
        """At most `limit` of `authors`: those the viewer interacts with most, then ascending by
        id.
        """
        if len(authors) <= limit:
            return authors
        affinity = dict(AFFINITY.iter_unpack(self.filters.affinity))
        return sorted(authors, key=lambda author: (-affinity.get(author, 0.0), author))[:limit]


class Viewers:
    """Reads viewers. Ranking configurations are parsed once a version."""

    def __init__(
        self, graph: GraphSource, preferences: PreferenceStore, settings: SettingsStore
    ) -> None:
        self._graph = graph
        self._preferences = preferences
        self._settings = settings
        self._newest = RankingConfig()

    async def read(
        self,
        user_id: int,
        now_ms: int,
        ranking_version: int | None = None,
        *,
        without_graph: bool = False,
    ) -> Viewer:
        """The viewer now; a scroll in progress names the ranking version that it began with.

        Raises Unavailable or Overloaded when the graph is away; `without_graph`: then the viewer
        comes without followees, and with the reason.
        """
        config = self.ranking(ranking_version)
        parameters, arm = config.choose(user_id)
        error = ""
        try:
            followees = await self._graph.followees(user_id)
        except (Unavailable, Overloaded) as away:
            if not without_graph:
                raise
            followees, error = Followees(b""), str(away)
        return Viewer(
            user_id,
            followees.ids,
            await self._preferences.filters(user_id, now_ms),
            config.version,
            parameters,
            arm,
            followees.stale_ms,
            error,
        )

    def ranking(self, version: int | None = None) -> RankingConfig:
        """The configuration in force, or an older one. Raises InvalidCursor if that is not kept any
        more.
        """
        newest = self._settings.version(RANKING)
        if newest != self._newest.version:
            self._newest = RankingConfig.from_document(self._settings.get(RANKING), newest)
        if version is None or version == newest:
            return self._newest
        if version == 0:
            return RankingConfig()
        document = self._settings.at_version(RANKING, version)
        if document is None:
            raise InvalidCursor("version", f"ranking version {version} is not kept any more")
        return RankingConfig.from_document(document, version)


def is_followed(viewer: Viewer, author_id: int) -> bool:
    """Whether the viewer follows the author."""
    return native.ids_contain(viewer.followees, author_id)
