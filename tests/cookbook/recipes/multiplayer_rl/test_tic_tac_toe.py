"""Tic-tac-toe: its rules, exact play, and matches of a policy with itself in which nobody waits in vain."""

from __future__ import annotations

import re
from collections import Counter
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cookbook.recipes.multiplayer_rl.speaker import RENDERER, Speaker, metrics_of, played, turns
from tinsmith.cookbook.recipes.multiplayer_rl.tic_tac_toe import board as rules
from tinsmith.cookbook.recipes.multiplayer_rl.tic_tac_toe.board import EMPTY, O, X, after, free_cells, is_over, other
from tinsmith.cookbook.recipes.multiplayer_rl.tic_tac_toe.matches import (
    WHOLE,
    AgainstPerfect,
    SelfPlay,
    Start,
    per_seat,
)
from tinsmith.cookbook.recipes.multiplayer_rl.tic_tac_toe.minimax import best_moves, value
from tinsmith.cookbook.recipes.multiplayer_rl.tic_tac_toe.odds import random_against_perfect
from tinsmith.cookbook.recipes.multiplayer_rl.tic_tac_toe.seat import Seat
from tinsmith.cookbook.rl import EnvError
from tinsmith.cookbook.rl.learning.advantages import mean_baseline
from tinsmith.cookbook.rl.rollouts.env_errors import ErrorPolicy

pytestmark = pytest.mark.row(99)
_LINES = ("012", "345", "678", "036", "147", "258", "048", "246")


def reachable() -> set[str]:
    found, new = {EMPTY}, {EMPTY}
    while new:
        new = {after(board, cell) for board in new if not is_over(board) for cell in free_cells(board)} - found
        found |= new
    return found


@given(st.lists(st.integers(0, 8), max_size=9))
def test_every_game_keeps_to_the_rules(cells: list[int]) -> None:
    board = EMPTY
    for cell in cells:
        if is_over(board) or cell not in free_cells(board):
            continue
        mark = rules.to_move(board)
        board = after(board, cell)
        assert board[cell] == mark
        assert rules.to_move(board) == other(mark)
        if rules.winner(board):
            assert rules.winner(board) == mark  # nobody wins by the other's move
    assert board.count(X) - board.count(O) in (0, 1)
    complete = [mark for mark in (X, O) for line in _LINES if all(board[int(cell)] == mark for cell in line)]
    assert rules.winner(board) == (complete[0] if complete else None)
    assert is_over(board) == bool(complete or not free_cells(board))
    shown = rules.drawn(board).split()
    assert [cell if mark.isdigit() else mark for cell, mark in enumerate(shown)] == [
        cell if mark == rules.FREE else mark for cell, mark in enumerate(board)
    ]


def test_there_are_as_many_boards_as_everybody_counts() -> None:
    boards = reachable()
    assert len(boards) == 5478
    assert len({board for board in boards if is_over(board)}) == 958
    assert sum(len(rules.boards(moves)) for moves in range(9)) == 5478 - 958


def test_the_perfect_player_never_loses_whatever_the_other_does() -> None:
    for perfect in (X, O):
        seen, new = set(), {EMPTY}
        while new:
            seen |= new
            going = [board for board in new if not is_over(board)]
            moves = {
                board: best_moves(board) if rules.to_move(board) == perfect else free_cells(board) for board in going
            }
            new = {after(board, cell) for board, cells in moves.items() for cell in cells} - seen
        assert {rules.winner(board) for board in seen if is_over(board)} == {perfect, None}


def test_perfect_players_draw() -> None:
    new = {EMPTY}
    for _ in range(9):
        new = {after(board, cell) for board in new for cell in best_moves(board)}
    assert {rules.winner(board) for board in new} == {None}
    assert value(EMPTY) == 0


@pytest.mark.parametrize(
    ("board", "expected", "cells"),
    [("XX.OO....", 1, (2,)), ("XX..O....", 0, (2,)), ("X...O...X", 0, (1, 3, 5, 7))],
)
def test_values_that_everybody_sees(board: str, expected: int, cells: tuple[int, ...]) -> None:
    assert value(board) == expected
    assert best_moves(board) == cells


def test_the_odds_of_random_play_are_those_of_playing_it() -> None:
    rng, found = Random(0), Counter[str | None]()
    for _ in range(4000):
        board = EMPTY
        while not is_over(board):
            board = after(board, rng.choice(free_cells(board) if rules.to_move(board) == X else best_moves(board)))
        found[rules.winner(board)] += 1
    odds = random_against_perfect(X)
    assert odds.win == found[X] == 0
    assert odds.draw == pytest.approx(found[None] / 4000, abs=0.03)
    assert sum(random_against_perfect(O)) == pytest.approx(1.0)


@pytest.mark.parametrize("moves", range(6))
def test_after_an_opening_both_players_have_a_move(moves: int) -> None:
    for board in rules.openings(moves):
        assert all(not is_over(after(board, cell)) for cell in free_cells(board))
        assert 9 - len(free_cells(board)) == moves


def shown(text: str) -> str:
    """Return the board that the policy reads, with `.` for what is free."""
    rows = re.findall(r"[XO0-8] [XO0-8] [XO0-8]", turns(text)[-2])
    return "".join(mark if mark in "XO" else "." for mark in " ".join(rows).split())


def any_free(text: str, rng: Random) -> str:
    return f"[{rng.choice(free_cells(shown(text)))}]"


def first_free(text: str, rng: Random) -> str:
    return f"[{free_cells(shown(text))[0]}]"


def best(text: str, rng: Random) -> str:
    return f"[{rng.choice(best_moves(shown(text)))}]"


def group(board: str = EMPTY, size: int = 8, rules: str | None = None) -> SelfPlay:
    return SelfPlay(RENDERER, board, size, "seed", rules)


def test_a_match_is_two_episodes_that_mirror_each_other() -> None:
    done = played(group(), Speaker(any_free))
    assert len(done.trajectories) == 8
    for one, two in zip(done.trajectories[::2], done.trajectories[1::2], strict=True):
        assert one.reward == -two.reward
        assert {one.end_reason, two.end_reason} in ({"win", "loss"}, {"draw"})
        assert len(one.transitions) - len(two.transitions) in (0, 1)
        assert one.transitions[-1].logs["board"] == two.transitions[-1].logs["board"]
    assert len({t.transitions[-1].logs["board"] for t in done.trajectories}) > 1


def test_the_same_seed_gives_the_same_matches() -> None:
    first, again, another = (played(group(), Speaker(any_free), seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first.trajectories != another.trajectories


def test_what_the_players_read() -> None:
    policy = Speaker(first_free)
    done = played(group(size=2, rules="Play well."), policy)
    first, second = (turns(text) for text in policy.read[:2])
    assert first == [
        "<|system|>Play well.",
        "<|user|>Tic-tac-toe. You are X.\n0 1 2\n3 4 5\n6 7 8\nYour move?",
        "<|assistant|>",
    ]
    assert second[1] == "<|user|>Tic-tac-toe. You are O.\nX 1 2\n3 4 5\n6 7 8\nYour move?"
    third = turns(policy.read[2])
    assert third[2:] == ["<|assistant|>[0]", "<|user|>X O 2\n3 4 5\n6 7 8\nYour move?", "<|assistant|>"]
    # An episode is one sequence: each observation begins with all that was read and said before.
    for trajectory in done.trajectories:
        for before, next_ in zip(trajectory.transitions, trajectory.transitions[1:], strict=False):
            so_far = [*before.ob.to_ints(), *before.ac.tokens]
            assert next_.ob.to_ints()[: len(so_far)] == so_far


@pytest.mark.parametrize("said", ["[4]", "I take [4].", "4", "cell 4", "Not [0] but [4]"])
def test_moves_that_are_understood(said: str) -> None:
    policy = Speaker(lambda text, rng: said if shown(text) == EMPTY else first_free(text, rng))
    played(group(size=2), policy)
    assert shown(policy.read[1]) == "....X...."


@pytest.mark.parametrize("said", ["", "[9]", "[0]", "the middle", "4 or 5", "[44]", "9" * 5000, "[x]"])
def test_an_illegal_move_loses_and_the_partner_plays_on(said: str) -> None:
    def say(text: str, rng: Random) -> str:
        # X says it in the second turn, when cell 0 is taken.
        return said if "You are X" in text and text.count("move?") == 2 else first_free(text, rng)

    done = played(group(size=2), Speaker(say))
    one, two = done.trajectories
    assert (one.end_reason, one.reward, metrics_of(done)) == (
        "illegal_move",
        -1.0,
        {"win": 0.0, "draw": 0.0, "loss": 1.0},
    )
    assert len(one.transitions) == 2
    assert two.end_reason in ("win", "draw", "loss")
    assert is_over(str(two.transitions[-1].logs["board"]))


def test_who_is_ended_by_a_limit_loses_and_the_partner_plays_on() -> None:
    # Who takes the first free cell wins as X with the fourth move, before which 160 tokens are read.
    done = played(group(size=4), Speaker(first_free, context_length=150))
    for one, two in zip(done.trajectories[::2], done.trajectories[1::2], strict=True):
        assert (one.end_reason, one.reward, len(one.transitions)) == ("context", -1.0, 3)
        assert one.transitions[-1].metrics["loss"] == 1.0
        assert two.end_reason in ("win", "draw", "loss", "context")
    turned = played(group(size=4), Speaker(first_free), max_turns=1)
    assert [(t.end_reason, t.reward) for t in turned.trajectories] == [("max_turns", -1.0)] * 4


def test_a_seat_that_fails_ends_the_group_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    step = Seat.step

    async def failing(self: Any, message: Any) -> Any:
        if self._mark == O and self._match.board.count(O) == 1:
            raise KeyError("board")
        return await step(self, message)

    monkeypatch.setattr(Seat, "step", failing)
    with pytest.raises(EnvError, match=r"step\(\), turn 1: KeyError: 'board'"):
        played(group(), Speaker(any_free))
    dropped = played(group(), Speaker(any_free), ErrorPolicy("drop"))
    assert dropped.trajectories == []
    assert len(dropped.errors) == 1


@pytest.mark.parametrize("start", WHOLE, ids=lambda start: start.kind)
def test_against_the_perfect_player(start: Start) -> None:
    ends = Counter(
        played(AgainstPerfect(RENDERER, start, str(number)), Speaker(say)).trajectories[0].end_reason + name
        for name, say in (("", best), (" random", any_free))
        for number in range(12)
    )
    assert ends["draw"] == 12
    assert ends["win random"] == 0 < ends["loss random"]
    builder = AgainstPerfect(RENDERER, start, "0")
    assert played(builder, Speaker(any_free)) == played(builder, Speaker(any_free))
    assert builder.logging_tags() == [start.kind] == ["first" if start.mark == X else "second"]


def test_advantages_compare_those_who_moved_first_and_those_who_moved_second() -> None:
    # Who moves first wins three of four: that is the board's doing, and only the fourth match says something.
    rewards = [1.0, -1.0, 1.0, -1.0, 1.0, -1.0, -1.0, 1.0]
    assert per_seat(mean_baseline)(rewards) == [0.5, -0.5, 0.5, -0.5, 0.5, -0.5, -1.5, 1.5]
