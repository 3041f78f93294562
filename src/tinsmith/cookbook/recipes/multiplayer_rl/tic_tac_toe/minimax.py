"""Exact play: the value of every board, and the moves that keep it. There are 5,478 boards, so nothing is estimated."""

from __future__ import annotations

from functools import cache

from tinsmith.cookbook.recipes.multiplayer_rl.tic_tac_toe.board import Board, after, free_cells, is_over, winner


@cache
def value(board: Board) -> int:
    """Return what the player whose turn it is comes to against an equal: 1 a win, 0 a draw, -1 a loss."""
    if is_over(board):
        # The last move was the other player's, and so is the line.
        return 0 if winner(board) is None else -1
    return max(-value(after(board, cell)) for cell in free_cells(board))


@cache
def best_moves(board: Board) -> tuple[int, ...]:
    """Return the cells that keep the board's value; all of them, where every move loses."""
    return tuple(cell for cell in free_cells(board) if -value(after(board, cell)) == value(board))
