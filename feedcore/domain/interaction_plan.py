"""What one interaction changes of what its user did before.

    counts   the post's counts, and the user's affinity to its author
    hides    the user's hides: a hide is a preference, too, which is there or not by itself (the
             room for preferences may have been full, or an import may have brought it)

What is set again, or taken back when it was not set, changes nothing. Not for what interactions
weigh: `engagement`.
"""

from __future__ import annotations

from typing import NamedTuple


class InteractionPlan(NamedTuple):
    """What is to be written."""

    counts: bool
    hides: bool

    @property
    def changes(self) -> bool:
        """Whether anything is."""
        return self.counts or self.hides


def plan_interaction(
    on: bool, *, was_on: bool, is_hide: bool = False, was_hidden: bool = False
) -> InteractionPlan:
    """`was_hidden` is not asked for unless the interaction `is_hide`."""
    return InteractionPlan(counts=on != was_on, hides=is_hide and on != was_hidden)
