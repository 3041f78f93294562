"""A game between two players, each a seat that somebody waits in, or a script."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from random import Random

from tinsmith.cookbook.recipes.multiplayer_rl.tic_tac_toe.board import Board, O, X, after, free_cells, is_over, to_move
from tinsmith.cookbook.recipes.multiplayer_rl.tic_tac_toe.minimax import best_moves

# Chooses a free cell of a board that is not full.
Script = Callable[[Board, Random], int]


def random_move(board: Board, rng: Random) -> int:
    """Return any free cell."""
    return rng.choice(free_cells(board))


def perfect_move(board: Board, rng: Random) -> int:
    """Return any of the best moves."""
    return rng.choice(best_moves(board))


class Match:
    """A game that two players move in turn.

    Args:
        board: that it begins with.
        rng: that scripts draw from.
        scripts: by the marks that they play; the others are seats.

    Attributes:
        board: as it is now.
    """

    def __init__(self, board: Board, rng: Random, scripts: Mapping[str, Script] | None = None) -> None:
        self.board = board
        self._rng = rng
        self._scripts = dict(scripts or {})
        self._may_look = {X: asyncio.Event(), O: asyncio.Event()}
        self._go_on()

    async def turn_of(self, mark: str) -> None:
        """Wait until it is a seat's turn, or the game is over."""
        await self._may_look[mark].wait()

    def move(self, cell: int) -> None:
        """Take the legal move of the seat whose turn it is."""
        self.board = after(self.board, cell)
        self._go_on()

    def leave(self, mark: str) -> None:
        """Leave a seat before the end: a script of random moves sits down in it, so that nobody waits in vain."""
        self._scripts[mark] = random_move
        self._go_on()

    def _go_on(self) -> None:
        while not is_over(self.board) and to_move(self.board) in self._scripts:
            self.board = after(self.board, self._scripts[to_move(self.board)](self.board, self._rng))
        for mark, event in self._may_look.items():
            if is_over(self.board) or to_move(self.board) == mark:
                event.set()
            else:
                event.clear()
