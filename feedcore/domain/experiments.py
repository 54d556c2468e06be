"""Versioned ranking configuration, and which parameters a user gets.

Users are split over the arms by a hash of (experiment name, user id): the same user, the same arm,
on every node and after every restart; another experiment, another split. Not for storing:
SettingsStore keeps the documents and gives the versions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from feedcore.domain.ranking import RankingParameters
from feedcore.errors import InvalidField
from feedcore.limits import EXPERIMENT_ARMS_MAX

NAME_CHARS_MAX = 64  # travels in each receipt
ARM_WEIGHT_MAX = 10_000  # hundredths of a percent


@dataclass(frozen=True, slots=True)
class Arm:
    """One arm; `weight` is its share of users relative to the other arms."""

    name: str
    weight: int
    parameters: RankingParameters


@dataclass(frozen=True, slots=True)
class RankingConfig:
    """One version. `parameters` are for everybody while there is no experiment (no arms)."""

    version: int = 0
    parameters: RankingParameters = field(default_factory=RankingParameters)
    experiment: str = ""
    arms: tuple[Arm, ...] = ()

    def validate(self) -> RankingConfig:
        """Itself, or raises InvalidField naming the first field out of bounds."""
        self.parameters.validate("config.parameters")
        if bool(self.experiment) != bool(self.arms):
            seen = f"{len(self.experiment)} characters, {len(self.arms)} arms"
            raise InvalidField("config.experiment", seen, "a name and arms, or neither")
        if len(self.experiment) > NAME_CHARS_MAX:
            seen = f"{len(self.experiment)} characters"
            raise InvalidField("config.experiment", seen, f"at most {NAME_CHARS_MAX} characters")
        if len(self.arms) > EXPERIMENT_ARMS_MAX:
            seen = f"{len(self.arms)} arms"
            raise InvalidField("config.arms", seen, f"at most {EXPERIMENT_ARMS_MAX}")
        names: set[str] = set()
        for index, arm in enumerate(self.arms):
            where = f"config.arms[{index}]"
            if not 1 <= len(arm.name) <= NAME_CHARS_MAX:
                seen = f"{len(arm.name)} characters"
                raise InvalidField(f"{where}.name", seen, f"1 to {NAME_CHARS_MAX} characters")
            if arm.name in names:
                raise InvalidField(f"{where}.name", "used twice", "a name of its own")
            names.add(arm.name)
            if not 1 <= arm.weight <= ARM_WEIGHT_MAX:
                raise InvalidField(f"{where}.weight", str(arm.weight), f"1 to {ARM_WEIGHT_MAX}")
            arm.parameters.validate(f"{where}.parameters")
        return self

    def choose(self, user_id: int) -> tuple[RankingParameters, str]:
        """The user's parameters and "experiment/arm" ("" while there is no experiment)."""
        if not self.arms:
            return self.parameters, ""
        text = f"{self.experiment}\0{user_id}".encode()
        digest = hashlib.blake2b(text, digest_size=8).digest()
        point = int.from_bytes(digest, "big") * sum(arm.weight for arm in self.arms) >> 64
        for arm in self.arms:
            point -= arm.weight
            if point < 0:
                break
        return arm.parameters, f"{self.experiment}/{arm.name}"

    def to_document(self) -> dict[str, Any]:
        """JSON-ready; without the version, which is the store's."""
        return {
            "parameters": self.parameters.to_document(),
            "experiment": self.experiment,
            "arms": [
                {"name": arm.name, "weight": arm.weight, "parameters": arm.parameters.to_document()}
                for arm in self.arms
            ],
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any] | None, version: int = 0) -> RankingConfig:
        """The configuration of a stored document, validated; None gives the built-in defaults."""
        if document is None:
            return cls(version=version)
        arms = tuple(
            Arm(
                str(arm["name"]),
                int(arm["weight"]),
                RankingParameters.from_document(
                    arm["parameters"], f"config.arms[{index}].parameters"
                ),
            )
            for index, arm in enumerate(document.get("arms", ()))
        )
        parameters = RankingParameters.from_document(
            document.get("parameters", {}), "config.parameters"
        )
        return cls(version, parameters, str(document.get("experiment", "")), arms).validate()
