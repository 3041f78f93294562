"""What is played: the groups that are learned from, the games that measure, and what simple players come to in them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from statistics import fmean
from typing import TypeVar

from tinsmith.cookbook import rl
from tinsmith.cookbook.recipes.multiplayer_rl.config import Config
from tinsmith.cookbook.recipes.multiplayer_rl.guess_number import guess_number_env
from tinsmith.cookbook.recipes.multiplayer_rl.guess_number.guess_number_env import GuessNumberEnv
from tinsmith.cookbook.recipes.multiplayer_rl.guess_number.guessers import any_open_number, counting_up, halving
from tinsmith.cookbook.recipes.multiplayer_rl.multiplayer_rl_env import SearchEnv
from tinsmith.cookbook.recipes.multiplayer_rl.simple_players import Player, measured
from tinsmith.cookbook.recipes.multiplayer_rl.tic_tac_toe import seat
from tinsmith.cookbook.recipes.multiplayer_rl.tic_tac_toe.board import EMPTY, Board, openings, to_move
from tinsmith.cookbook.recipes.multiplayer_rl.tic_tac_toe.matches import (
    WHOLE,
    AgainstPerfect,
    SelfPlay,
    Start,
    per_seat,
)
from tinsmith.cookbook.recipes.multiplayer_rl.tic_tac_toe.minimax import value
from tinsmith.cookbook.recipes.multiplayer_rl.tic_tac_toe.odds import random_against_perfect
from tinsmith.cookbook.recipes.multiplayer_rl.twenty_questions import twenty_questions_env
from tinsmith.cookbook.recipes.multiplayer_rl.twenty_questions.answerers import Answerer, ModelAnswerer, RuleAnswerer
from tinsmith.cookbook.recipes.multiplayer_rl.twenty_questions.askers import any_question, category_first, one_thing
from tinsmith.cookbook.recipes.multiplayer_rl.twenty_questions.things import THINGS
from tinsmith.cookbook.recipes.multiplayer_rl.twenty_questions.twenty_questions_env import TwentyQuestionsEnv
from tinsmith.cookbook.rl import ADVANTAGES
from tinsmith.cookbook.training import ModelSetup

Secret = TypeVar("Secret", int, str)

# One of so many boards is held out.
_HELD_OUT = 4
# More than a run of the usual length plays.
_OPENINGS = 4096


@dataclass(frozen=True)
class Game:
    """A game, ready to be learned and measured.

    Attributes:
        groups: that are learned from.
        test: games that measure, a secret or a match to a group.
        shown: what is measured that a table is to show.
        simple: by the name of a simple player, what it comes to in the same games, under the same names.
        advantages: of the episodes of a group; None takes those of the config.
    """

    groups: rl.RLDataset
    test: rl.RLDataset
    shown: Sequence[str]
    simple: Mapping[str, Mapping[str, float]]
    advantages: rl.AdvantageFunction | None = None


def load_game(config: Config, model: ModelSetup) -> Game:
    """Return the game that a config names.

    Raises:
        UserError: there is no such answerer.
        TinsmithError: the service failed.
    """
    return _GAMES[config.env](config, model)


def _guess_number(config: Config, model: ModelSetup) -> Game:
    highest, most = config.of_game("highest"), config.of_game("max_guesses")
    rules = guess_number_env.RULES if config.tells_rules() else None
    guessers: dict[str, Callable[[int, Random], Player]] = {
        "counting_up": counting_up,
        "any_open_number": any_open_number,
        "halving": halving,
    }
    return _search(
        config,
        model,
        range(1, highest + 1),
        lambda secret, cost: GuessNumberEnv(secret, highest, most, wasted_cost=cost, rules=rules),
        {name: functools.partial(guesser, highest) for name, guesser in guessers.items()},
    )


def _twenty_questions(config: Config, model: ModelSetup) -> Game:
    most = config.of_game("max_questions")
    rules = twenty_questions_env.RULES if config.tells_rules() else None
    answerer: Answerer = RuleAnswerer()
    if config.answerer_model is not None:
        renderer_name = config.answerer_renderer_name
        answerer = ModelAnswerer(model.service, config.answerer_model, renderer_name, config.seed)
    # Whoever thinks of things has favourites. What is likely can be found out by playing, as well as how to ask.
    favourites = Random(f"favourites-{config.seed}").sample(THINGS, config.of_game("favourites"))
    return _search(
        config,
        model,
        favourites,
        lambda secret, cost: TwentyQuestionsEnv(secret, answerer, most, wasted_cost=cost, rules=rules),
        {"one_thing": one_thing, "any_question": any_question, "category_first": category_first},
    )


def _search(
    config: Config,
    model: ModelSetup,
    secrets: Sequence[Secret],
    make: Callable[[Secret, float], SearchEnv],
    players: Mapping[str, Callable[[Random], Player]],
) -> Game:
    """Return the game of searching one of some secrets.

    Args:
        make: makes the environment of a secret, with the cost of a wasted turn.
        players: simple ones.
    """
    # Every secret is learned from and measured, in games of their own. One that never came up would teach the policy
    # not to look for it: that is what the replies are about, and no more than that is held back.
    each = -(-config.of_game("eval_games") // len(secrets))

    def group(secret: Secret, size: int, cost: float) -> rl.EnvGroupBuilder:
        return rl.RepeatedEnv(lambda: rl.EnvFromMessageEnv(model.renderer, make(secret, cost)), size)

    def measure(player: Callable[[Random], Player]) -> dict[str, float]:
        return measured(
            (make(secret, 0.0), player(Random(f"{config.seed}-{secret}-{number}")))
            for secret in secrets
            for number in range(each)
        )

    return Game(
        rl.ItemDataset(
            secrets,
            lambda secret: group(secret, config.of_game("group_size"), config.wasted_cost),
            config.of_game("batch_size"),
            config.seed,
        ),
        rl.ItemDataset(secrets, lambda secret: group(secret, each, 0.0), len(secrets), seed=None),
        shown=("reward", "found", make(secrets[0], 0.0).turns, "wasted"),
        simple={name: measure(player) for name, player in players.items()},
    )


def _tic_tac_toe(config: Config, model: ModelSetup) -> Game:
    rules = seat.RULES if config.tells_rules() else None
    learned, held_out = _openings(config)
    # Each kind of match as often as any other.
    starts = [
        (start, number)
        for number, board in enumerate(held_out)
        for start in (*WHOLE, Start("midgame", board, to_move(board)))
    ]
    return Game(
        rl.ItemDataset(
            list(enumerate(learned)),
            lambda item: SelfPlay(
                model.renderer, item[1], config.of_game("group_size"), f"self-{config.seed}-{item[0]}", rules
            ),
            config.of_game("batch_size"),
            config.seed,
        ),
        rl.ItemDataset(
            starts,
            lambda item: AgainstPerfect(model.renderer, item[0], f"perfect-{config.seed}-{item[1]}", rules),
            len(starts),
            seed=None,
        ),
        shown=[f"{kind}/{end}" for kind in ("first", "second", "midgame") for end in ("loss", "draw", "win")],
        simple={"any_free_cell": _odds([start for start, _ in starts])},
        advantages=per_seat(ADVANTAGES[config.advantages]),
    )


def _openings(config: Config) -> tuple[list[Board], list[Board]]:
    """Return the boards that matches to learn from begin with, and held-out ones on which who moves need not lose."""
    rng = Random(f"openings-{config.seed}")
    moves = config.of_game("opening_moves")
    # The board before the first move is the game itself: nothing is held out of it.
    split = [((EMPTY,), ()), *(_split(openings(count), config.seed) for count in range(1, moves + 1))]
    # Every number of moves as often as any other: after four there are many boards, and before the first there is one.
    learned = [rng.choice(rng.choice(split)[0]) for _ in range(_OPENINGS)]
    tested = [[board for board in held_out if value(board) >= 0] for _, held_out in split]
    tested = [boards for boards in tested if boards] or [[EMPTY]]
    return learned, [rng.choice(rng.choice(tested)) for _ in range(-(-config.of_game("eval_games") // 3))]


def _odds(starts: Sequence[Start]) -> dict[str, float]:
    """Return what one who plays any free cell comes to in some matches against the perfect player."""
    found: dict[str, float] = {}
    for kind in {start.kind for start in starts}:
        odds = [random_against_perfect(start.mark, start.board) for start in starts if start.kind == kind]
        found |= {f"{kind}/{end}": fmean(getattr(each, end) for each in odds) for end in ("loss", "draw", "win")}
    return found


_GAMES: dict[str, Callable[[Config, ModelSetup], Game]] = {
    "guess_number": _guess_number,
    "twenty_questions": _twenty_questions,
    "tic_tac_toe": _tic_tac_toe,
}


def _split(boards: Sequence[Board], seed: int) -> tuple[list[Board], list[Board]]:
    """Return the boards to learn from and those that are held out, drawn by seed, in order."""
    held_out = set(Random(f"held-out-{seed}").sample(range(len(boards)), max(1, len(boards) // _HELD_OUT)))
    return (
        [board for place, board in enumerate(boards) if place not in held_out],
        [board for place, board in enumerate(boards) if place in held_out],
    )
