"""Plausible short posts for the demo world, from a small grammar. Pure: the caller's generator
decides.

Not for anything that looks at words: the engine never does.
"""

from __future__ import annotations

import random

OPENINGS = (
    "Finally",
    "Today",
    "This morning",
    "After three weeks",
    "Against all advice",
    "On the way home",
    "Somehow",
    "Small victory:",
    "Update:",
    "Not what I expected:",
    "Reminder to self:",
    "For the first time this year",
)
DEEDS = (
    "finished {thing}",
    "got {thing} to work",
    "gave up on {thing}",
    "found {thing} at the flea market",
    "taught my neighbour about {thing}",
    "repaired {thing}",
    "wrote two pages about {thing}",
    "spent the evening with {thing}",
    "understood {thing}",
    "swapped {thing} for {other}",
    "compared {thing} with {other}",
    "started {thing} all over again",
    "explained {thing} to my father",
)
THINGS = (
    "the sourdough starter",
    "an old film camera",
    "my bicycle's rear wheel",
    "the garden shed",
    "a Bach prelude",
    "the night train to Vienna",
    "a paper on tidal power",
    "the neighbourhood map",
    "a borrowed telescope",
    "the chess opening from last week",
    "a jar of preserved lemons",
    "my grandmother's radio",
    "the trail map",
    "the new tram line",
    "a half-finished quilt",
    "the city archive",
    "a stubborn printer",
    "the choir's autumn concert",
    "a second-hand loom",
    "the harbour wall sketch",
    "the beehive",
    "an essay on slow reading",
    "the community oven",
)
REACTIONS = (
    "Worth every minute.",
    "Would not do it again.",
    "Pictures soon.",
    "Ask me anything.",
    "The coffee helped.",
    "Still smiling.",
    "More tomorrow.",
    "Thanks to everybody who helped.",
    "The rain did not.",
    "No regrets.",
    "It took longer than planned, as always.",
    "Highly recommended.",
    "Next time with gloves.",
    "",
)
QUESTIONS = (
    "Does anybody know how to look after {thing}?",
    "What is your opinion of {thing}?",
    "Who else grew up with {thing}?",
    "Is there a better way than {thing}?",
    "Looking for company for {thing} this weekend.",
    "Recommend me a book about {thing}, please.",
)
TAGS = (
    "",
    "",
    "",
    "",
    " #slowliving",
    " #makers",
    " #citylife",
    " #books",
    " #music",
    " #outdoors",
    " #repair",
)


def sentence(draw: random.Random) -> str:
    """One post, 20 to 200 characters."""
    thing, other = draw.sample(THINGS, 2)
    if draw.random() < 0.25:
        return draw.choice(QUESTIONS).format(thing=thing) + draw.choice(TAGS)
    deed = draw.choice(DEEDS).format(thing=thing, other=other)
    opening = draw.choice(OPENINGS)
    end = "" if opening.endswith(":") else " I"
    reaction = draw.choice(REACTIONS)
    return f"{opening}{end} {deed}. {reaction}".rstrip() + draw.choice(TAGS)
