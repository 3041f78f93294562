"""How often one who plays any free cell wins, draws and loses against the perfect player, exactly."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from tinsmith.cookbook.recipes.multiplayer_rl.tic_tac_toe.board import (
    EMPTY,
    Board,
    after,
    free_cells,
    is_over,
    to_move,
    winner,
)
from tinsmith.cookbook.recipes.multiplayer_rl.tic_tac_toe.minimax import best_moves


class Odds(NamedTuple):
    """Chances of a player, which add up to 1."""

    win: float
    draw: float
    loss: float


@cache
def random_against_perfect(mark: str, board: Board = EMPTY) -> Odds:
    """Return the odds of one who plays any free cell with `mark` against one who plays any of the best moves."""
    if is_over(board):
        won = winner(board)
        return Odds(float(won == mark), float(won is None), float(won not in (None, mark)))
    cells = free_cells(board) if to_move(board) == mark else best_moves(board)
    chances = [random_against_perfect(mark, after(board, cell)) for cell in cells]
    return Odds(*(sum(column) / len(cells) for column in zip(*chances, strict=True)))
