"""The rule: beside a flood a tenant's work takes at most twice its calm time plus one pass."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Verdict:
    """One kind of the victim's work beside one flood.

    Attributes:
        flood, work: their names.
        calm_s: median without a flood, just before it, seconds.
        beside_s: median beside it.
        worst_s: the longest beside it.
        pass_s: the longest turn that the engine took meanwhile: a turn is not broken off.
    """

    flood: str
    work: str
    calm_s: float
    beside_s: float
    worst_s: float
    pass_s: float

    @classmethod
    def of(cls, flood: str, work: str, calm: list[float], beside: list[float], pass_s: float) -> Verdict:
        """Judge times of single pieces of work, seconds."""
        return cls(flood, work, float(np.median(calm)), float(np.median(beside)), max(beside), pass_s)

    @property
    def allowed_s(self) -> float:
        """What the rule allows, seconds."""
        return 2 * self.calm_s + self.pass_s

    @property
    def holds(self) -> bool:
        """Whether the median keeps to the rule."""
        return self.beside_s <= self.allowed_s
