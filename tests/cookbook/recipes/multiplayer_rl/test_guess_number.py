"""Guess the number: replies, rewards, games that a slip ends, and what simple ways of guessing come to."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cookbook.recipes.multiplayer_rl.speaker import RENDERER, Speaker, metrics_of, played, turns
from tests.support.examples import examples
from tinsmith.cookbook.recipes.multiplayer_rl.guess_number import guessers
from tinsmith.cookbook.recipes.multiplayer_rl.guess_number.guess_number_env import GuessNumberEnv
from tinsmith.cookbook.recipes.multiplayer_rl.simple_players import measured
from tinsmith.cookbook.rl import EnvFromMessageEnv, RepeatedEnv

pytestmark = pytest.mark.row(72, 99)


def game(secret: int, most: int = 12, size: int = 1, **options: Any) -> RepeatedEnv:
    return RepeatedEnv(lambda: EnvFromMessageEnv(RENDERER, GuessNumberEnv(secret, 32, most, **options)), size)


def open_numbers(text: str, highest: int = 32) -> range:
    """Return what the replies that the policy has read leave open."""
    low, high = 1, highest
    for guess, reply in re.findall(r"Guess: (\d+)<\|end\|><\|user\|>Too (low|high)", text):
        low, high = (max(low, int(guess) + 1), high) if reply == "low" else (low, min(high, int(guess) - 1))
    return range(low, high + 1)


def halving(text: str, rng: Random) -> str:
    left = open_numbers(text)
    return f"Guess: {(left[0] + left[-1]) // 2}"


def any_open(text: str, rng: Random) -> str:
    return f"Guess: {rng.choice(open_numbers(text))}"


@pytest.mark.parametrize(("secret", "count"), [(16, 1), (8, 2), (24, 2), (1, 5), (31, 5), (32, 6)])
def test_a_game_from_the_first_guess_to_the_last(secret: int, count: int) -> None:
    policy = Speaker(halving)
    done = played(game(secret), policy)
    (trajectory,) = done.trajectories
    assert [t.episode_done for t in trajectory.transitions[:-1]] == [False] * (count - 1)
    assert all(t.reward > 0 for t in trajectory.transitions)
    assert trajectory.transitions[-1].episode_done
    assert (trajectory.end_reason, trajectory.reward) == ("found", pytest.approx(0.5 + 0.5 * (13 - count) / 12))
    assert metrics_of(done) == {"found": 1.0, "guesses": count, "wasted": 0.0}
    assert turns(policy.read[0]) == ["<|user|>I picked a number from 1 to 32. Guess it.", "<|assistant|>"]
    if count > 1:
        reply = "Too low." if secret > 16 else "Too high."
        assert turns(policy.read[1])[1:] == ["<|assistant|>Guess: 16", f"<|user|>{reply}", "<|assistant|>"]


def test_the_same_seed_gives_the_same_games() -> None:
    first, again, another = (played(game(9, size=6), Speaker(any_open), seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first.trajectories != another.trajectories
    assert len({t.reward for t in first.trajectories}) > 1


@pytest.mark.parametrize(
    ("said", "found"),
    [
        *((said, True) for said in ("Guess: 5", "5", "My guess: 5.", "Is it 5?", "guess:5", "Not 4. Guess: 5")),
        *((said, False) for said in ("Guess: 55", "4 or 5", "five", "", "5" * 5000, f"Guess: {'5' * 5000}")),
    ],
)
def test_guesses_that_are_understood(said: str, found: bool) -> None:
    done = played(game(5, most=1), Speaker(lambda text, rng: said))
    assert metrics_of(done)["found"] == float(found)


def test_what_is_no_number_or_was_excluded_costs_a_guess_and_is_counted() -> None:
    said = iter(["Guess: 16", "twelve", "Guess: 20", "Guess: 99", "Guess: 12"])
    policy = Speaker(lambda text, rng: next(said))
    done = played(game(11, most=5), policy)
    assert [turns(text)[-2] for text in policy.read[1:]] == [
        "<|user|>Too high.",
        '<|user|>That is no number. Say "Guess: " and a number.',
        "<|user|>Too high.",
        "<|user|>Too high.",
    ]
    assert metrics_of(done) == {"found": 0.0, "guesses": 5.0, "wasted": pytest.approx(3 / 5)}
    # The replies leave 1 to 11 of 32 numbers.
    assert done.trajectories[0].reward == pytest.approx(0.5 - 0.5 * math.log(11) / math.log(32))
    assert done.trajectories[0].end_reason == "out_of_guesses"


def test_what_a_guess_tells_is_paid_at_once() -> None:
    replies = iter(["Guess: 16", "Guess: 17", "Guess: 7", "Guess: 12"])
    done = played(game(12, most=5), Speaker(lambda text, rng: next(replies)))
    (trajectory,) = done.trajectories
    open_numbers = [32, 15, 15, 8]
    told = [0.5 * math.log(before / after) / math.log(32) for before, after in pairwise(open_numbers)]
    # The last guess names one of eight, with the fourth turn of five.
    told.append(0.5 * math.log(8) / math.log(32) + 0.5 * 2 / 5)
    assert [transition.reward for transition in trajectory.transitions] == pytest.approx(told)
    assert trajectory.transitions[1].reward == 0.0
    assert trajectory.reward == pytest.approx(0.5 + 0.5 * 2 / 5)


def test_a_guess_that_tells_nothing_costs_what_it_says() -> None:
    replies = iter(["Guess: 16", "Guess: 17", "twelve", "Guess: 12"])
    done = played(game(12, most=5, wasted_cost=0.1), Speaker(lambda text, rng: next(replies)))
    (trajectory,) = done.trajectories
    assert [transition.reward for transition in trajectory.transitions][1:3] == [-0.1, -0.1]
    assert trajectory.reward == pytest.approx(0.5 + 0.5 * 2 / 5 - 0.2)


@pytest.mark.parametrize(
    ("limits", "end"),
    [({"max_turns": 2}, "max_turns"), ({"max_trajectory_tokens": 80}, "max_tokens")],
)
def test_a_game_that_a_limit_ends_counts_as_not_found(limits: dict[str, Any], end: str) -> None:
    done = played(game(12), Speaker(lambda text, rng: "Guess: 16"), **limits)
    assert done.trajectories[0].end_reason == end
    assert done.trajectories[0].reward == pytest.approx(0.5 - 0.5 * math.log(15) / math.log(32))
    assert (metrics_of(done)["found"], metrics_of(done)["guesses"]) == (0.0, 12.0)


def test_a_context_that_is_full_in_the_middle_of_a_game_is_named() -> None:
    done = played(game(12), Speaker(lambda text, rng: "Guess: 1", context_length=100))
    assert done.trajectories[0].end_reason == "context"
    assert 1 < len(done.trajectories[0].transitions) < 12


def test_rules_are_told_in_a_system_message() -> None:
    policy = Speaker(halving)
    played(game(16, rules="Be quick."), policy)
    assert turns(policy.read[0])[0] == "<|system|>Be quick."


def expected(guesser: Any, highest: int, games: int = 1, most: int = 99) -> float:
    """Return the mean guesses of a simple way of guessing, over all secrets."""
    rng = Random(0)
    secrets = [*range(1, highest + 1)] * games
    return measured((GuessNumberEnv(secret, highest, most), guesser(highest, rng)) for secret in secrets)["guesses"]


@given(st.integers(4, 60))
@examples(15)
def test_halving_comes_near_the_logarithm_and_counting_does_not(highest: int) -> None:
    assert math.log2(highest + 1) - 1 <= expected(guessers.halving, highest) <= math.log2(highest + 1)
    assert expected(guessers.counting_up, highest) == (highest + 1) / 2


def test_a_random_guesser_needs_what_theory_says() -> None:
    # 2 (1 + 1/n) H(n) - 3, the mean depth of a node in a random search tree.
    harmonic = sum(1 / n for n in range(1, 33))
    theory = 2 * (1 + 1 / 32) * harmonic - 3
    assert expected(guessers.any_open_number, 32, games=40) == pytest.approx(theory, abs=0.2)
    assert expected(guessers.counting_up, 32, most=12) == (sum(range(1, 13)) + 20 * 12) / 32
