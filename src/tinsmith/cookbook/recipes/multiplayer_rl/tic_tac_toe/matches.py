"""Groups of matches: of a policy against itself, to learn from, and against the perfect player, to measure it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, NamedTuple

from tinsmith.cookbook import rl
from tinsmith.cookbook.recipes.multiplayer_rl.tic_tac_toe.board import EMPTY, Board, O, X, other, to_move
from tinsmith.cookbook.recipes.multiplayer_rl.tic_tac_toe.match import Match, perfect_move
from tinsmith.cookbook.recipes.multiplayer_rl.tic_tac_toe.seat import Seat
from tinsmith.cookbook.renderers import Renderer


class Start(NamedTuple):
    """How a match begins.

    Attributes:
        kind: `first` and `second` are whole matches in which the policy moves first or second; `midgame` begins with
            some moves made, and the policy moves first.
        board: that it begins with.
        mark: of the policy.
    """

    kind: str
    board: Board
    mark: str


WHOLE = (Start("first", EMPTY, X), Start("second", EMPTY, O))


@dataclass(frozen=True)
class SelfPlay(rl.EnvGroupBuilder):
    """Matches of one policy against itself, all from the same board.

    Attributes:
        renderer: of the policy.
        board: on which the next move ends no game, so that both players have one.
        group_size: seats, two to a match.
        seed: of what stands in for a player who has left.
        rules: as in `GameEnv`.
    """

    renderer: Renderer
    board: Board
    group_size: int
    seed: str
    rules: str | None = None
    plays_together = True

    async def make_envs(self) -> Sequence[Any]:
        """Return the seats: who moves first in match 0, who moves second in it, who moves first in match 1, ..."""
        first = to_move(self.board)
        matches = [Match(self.board, Random(f"{self.seed}-{number}")) for number in range(self.group_size // 2)]
        return [
            rl.EnvFromMessageEnv(self.renderer, Seat(match, mark, self.rules))
            for match in matches
            for mark in (first, other(first))
        ]


@dataclass(frozen=True)
class AgainstPerfect(rl.EnvGroupBuilder):
    """A match against the perfect player.

    Attributes:
        renderer: of the policy.
        start: what the match begins with, and which part the policy has in it.
        seed: of the perfect player's choice among moves that are equally good.
        rules: as in `GameEnv`.
    """

    renderer: Renderer
    start: Start
    seed: str
    rules: str | None = None

    async def make_envs(self) -> Sequence[Any]:
        """Return the policy's seat."""
        mark = self.start.mark
        match = Match(self.start.board, Random(self.seed), {other(mark): perfect_move})
        return [rl.EnvFromMessageEnv(self.renderer, Seat(match, mark, self.rules))]

    def logging_tags(self) -> Sequence[str]:
        """Return the kind of match."""
        return [self.start.kind]


def per_seat(function: rl.AdvantageFunction) -> rl.AdvantageFunction:
    """Return advantages that compare those who moved first with one another, and those who moved second likewise.

    The board may favour one of them; and the rewards of a match add up to nothing, so that the mean of all of them
    would be no baseline.

    Args:
        function: compares those who had the same part.
    """

    def advantages(rewards: Sequence[float]) -> Sequence[float]:
        found = [0.0] * len(rewards)
        for part in (0, 1):
            found[part::2] = function(rewards[part::2])
        return found

    return advantages
