"""Ranking versions and experiments: validation, documents, a stable split."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from feedcore.domain.experiments import Arm, RankingConfig
from feedcore.domain.ranking import DEFAULT, RankingParameters
from feedcore.errors import InvalidField

OTHER = RankingParameters(half_life_hours=6.0)
CONFIG = RankingConfig(3, DEFAULT, "recency", (Arm("control", 3, DEFAULT), Arm("short", 1, OTHER)))


def test_without_an_experiment_everybody_gets_the_parameters() -> None:
    assert RankingConfig(1, OTHER).validate().choose(7) == (OTHER, "")


def test_the_split_follows_the_weights_and_is_stable() -> None:
    seen = Counter(CONFIG.choose(user)[1] for user in range(1, 4_001))
    assert set(seen) == {"recency/control", "recency/short"}
    assert 2_850 < seen["recency/control"] < 3_150
    assert CONFIG.choose(1) == CONFIG.choose(1)
    assert dict(CONFIG.arms[1].parameters.to_document())["half_life_hours"] == 6.0


def test_another_experiment_is_another_split() -> None:
    other = replace(CONFIG, experiment="another")
    same = sum(CONFIG.choose(user)[0] == other.choose(user)[0] for user in range(1, 2_001))
    assert 1_100 < same < 1_400  # 0.75 * 0.75 + 0.25 * 0.25 = 62.5 %


def test_documents_come_back() -> None:
    assert RankingConfig.from_document(CONFIG.to_document(), 3) == CONFIG
    assert RankingConfig.from_document(None) == RankingConfig()


@pytest.mark.parametrize(
    ("config", "field"),
    [
        (replace(CONFIG, experiment=""), "config.experiment"),
        (replace(CONFIG, arms=()), "config.experiment"),
        (replace(CONFIG, experiment="x" * 65), "config.experiment"),
        (replace(CONFIG, arms=CONFIG.arms * 9), "config.arms"),
        (replace(CONFIG, arms=(Arm("", 1, DEFAULT),)), "config.arms[0].name"),
        (replace(CONFIG, arms=(Arm("a", 1, DEFAULT),) * 2), "config.arms[1].name"),
        (replace(CONFIG, arms=(Arm("a", 0, DEFAULT),)), "config.arms[0].weight"),
        (replace(CONFIG, arms=(Arm("a", 10_001, DEFAULT),)), "config.arms[0].weight"),
        (
            replace(CONFIG, arms=(Arm("a", 1, RankingParameters(quality_weight=9.0)),)),
            "config.arms[0].parameters.quality_weight",
        ),
        (replace(CONFIG, parameters=RankingParameters(0.0)), "config.parameters.half_life_hours"),
    ],
)
def test_refused(config: RankingConfig, field: str) -> None:
    with pytest.raises(InvalidField) as caught:
        config.validate()
    assert caught.value.field == field
