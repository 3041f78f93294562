"""How long an episode may go on."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from tinsmith.types.errors import invalid


@dataclass(frozen=True)
class RolloutLimits:
    """The limits of an episode; what is reached is named as the reason of its end. None is no limit.

    Attributes:
        max_tokens: longest action, in tokens.
        max_turns: actions of an episode.
        max_trajectory_tokens: tokens that the episode may reach, observations and actions together; the model's
            context is a limit in any case.
        max_tool_calls: calls, as the environment counts them in the metric `tool_calls`.
        max_seconds: wall-clock time of an episode. What it cuts depends on the machine, so a run that it cuts is not
            repeated to the token.

    Raises:
        UserError: a limit is below 1, or is no number.
    """

    max_tokens: int | None = None
    max_turns: int | None = None
    max_trajectory_tokens: int | None = None
    max_tool_calls: int | None = None
    max_seconds: float | None = None

    def __post_init__(self) -> None:
        for limit in fields(self):
            value = getattr(self, limit.name)
            least = 0 if limit.name == "max_tool_calls" else 1
            if value is None or (limit.name == "max_seconds" and 0 < value < math.inf):
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise invalid(limit.name, value, f"None, or a number of at least {least}")
