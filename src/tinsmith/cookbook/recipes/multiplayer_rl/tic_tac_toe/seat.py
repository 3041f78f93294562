"""A seat in a match as an environment."""

from __future__ import annotations

from tinsmith.cookbook import rl
from tinsmith.cookbook.recipes.multiplayer_rl.multiplayer_rl_env import GameEnv, Messages, number_in
from tinsmith.cookbook.recipes.multiplayer_rl.tic_tac_toe.board import drawn, free_cells, is_over, winner
from tinsmith.cookbook.recipes.multiplayer_rl.tic_tac_toe.match import Match
from tinsmith.cookbook.renderers import Message
from tinsmith.cookbook.renderers.messages import get_text_content

RULES = (
    "You play tic-tac-toe. Three marks in a row, a column or a diagonal win. You are shown the board before each of "
    "your moves; a free cell shows its number. Reply with the number of the cell that you take in brackets, for "
    "example [4], and nothing else."
)
_FORMS = (r"\[(\d)\]",)


class Seat(GameEnv):
    """One player of a match.

    A win is worth 1, a draw 0, a loss -1; an illegal move loses, and so does a seat that is left before the end.

    Args:
        match: the other player sits in another seat of it, or is a script.
        mark: that is played.
        rules: as in `GameEnv`.
    """

    def __init__(self, match: Match, mark: str, rules: str | None = None) -> None:
        super().__init__(rules)
        self._match = match
        self._mark = mark

    async def initial_observation(self) -> Messages:
        """Return the board, once it is this player's turn."""
        await self._match.turn_of(self._mark)
        return self.tell(f"Tic-tac-toe. You are {self._mark}.\n{self._shown()}")

    async def step(self, message: Message) -> rl.MessageStepResult:
        """Take a move, and wait for the other player's."""
        cell = number_in(get_text_content(message), _FORMS)
        if cell not in free_cells(self._match.board):
            self._match.leave(self._mark)
            return self._ended("illegal_move")
        self._match.move(cell)
        await self._match.turn_of(self._mark)
        if is_over(self._match.board):
            won = winner(self._match.board)
            return self._ended("draw" if won is None else "win" if won == self._mark else "loss")
        # What it would come to if a limit ended it here.
        return rl.MessageStepResult(0.0, False, self.answer(message, self._shown()), metrics=_result("loss"))

    def reward_at_limit(self, reason: str) -> float:
        """Return the reward of a seat that a limit ends: it is left, and lost."""
        self._match.leave(self._mark)
        return -1.0

    def _shown(self) -> str:
        return f"{drawn(self._match.board)}\nYour move?"

    def _ended(self, end: str) -> rl.MessageStepResult:
        reward = {"win": 1.0, "draw": 0.0}.get(end, -1.0)
        result = _result(end if end in ("win", "draw") else "loss")
        logs = {"board": self._match.board}
        return rl.MessageStepResult(reward, True, metrics=result, logs=logs, end_reason=end)


def _result(end: str) -> dict[str, float]:
    return {name: float(name == end) for name in ("win", "draw", "loss")}
