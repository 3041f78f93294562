"""Boards of tic-tac-toe: a text of nine cells, row by row, each `X`, `O` or `.`; X began."""

from __future__ import annotations

from functools import cache

X, O, FREE = "X", "O", "."  # noqa: E741, the field's own name
EMPTY = FREE * 9
_LINES = ("012", "345", "678", "036", "147", "258", "048", "246")

Board = str


def other(mark: str) -> str:
    """Return the other player's mark."""
    return O if mark == X else X


def to_move(board: Board) -> str:
    """Return the mark of the player whose turn it is."""
    return X if board.count(X) == board.count(O) else O


def free_cells(board: Board) -> tuple[int, ...]:
    """Return the free cells, 0 to 8."""
    return tuple(cell for cell in range(9) if board[cell] == FREE)


def winner(board: Board) -> str | None:
    """Return the mark that has three in a row, if one has."""
    for line in _LINES:
        marks = {board[int(cell)] for cell in line}
        if len(marks) == 1 and marks != {FREE}:
            return marks.pop()
    return None


def is_over(board: Board) -> bool:
    """Return whether somebody has won, or no cell is free."""
    return winner(board) is not None or FREE not in board


def after(board: Board, cell: int) -> Board:
    """Return the board after a legal move of the player whose turn it is."""
    return board[:cell] + to_move(board) + board[cell + 1 :]


def drawn(board: Board) -> str:
    """Return three lines of three cells; a free cell shows its number."""
    shown = [str(cell) if mark == FREE else mark for cell, mark in enumerate(board)]
    return "\n".join(" ".join(shown[row : row + 3]) for row in (0, 3, 6))


@cache
def boards(moves: int) -> tuple[Board, ...]:
    """Return all boards that games come to after so many moves and go on from, in order."""
    if moves == 0:
        return (EMPTY,)
    found = {after(board, cell) for board in boards(moves - 1) for cell in free_cells(board)}
    return tuple(sorted(board for board in found if not is_over(board)))


@cache
def openings(moves: int) -> tuple[Board, ...]:
    """Return the boards after so many moves on which the next move ends no game, so that both players have one."""
    return tuple(board for board in boards(moves) if not any(is_over(after(board, cell)) for cell in free_cells(board)))
