"""The settings of the games."""

from __future__ import annotations

from typing import Any, Literal

import chz

from tinsmith.cookbook.recipes.multiplayer_rl.twenty_questions.things import THINGS
from tinsmith.cookbook.rl import RLConfig
from tinsmith.cookbook.rl.trainer.config import discount_or_none
from tinsmith.cookbook.schedules import Schedule
from tinsmith.cookbook.utils import at_least
from tinsmith.types.errors import invalid
from tinsmith.types.facts.lineup import EMBEDDED_MODEL

GameName = Literal["guess_number", "twenty_questions", "tic_tac_toe"]

# Settings of one game alone: whose they are, and their defaults.
_OWN: dict[str, tuple[GameName, Any]] = {
    "highest": ("guess_number", 16),
    "max_guesses": ("guess_number", 8),
    "max_questions": ("twenty_questions", 20),
    "favourites": ("twenty_questions", 9),
    "answerer_model": ("twenty_questions", None),
    "answerer_renderer_name": ("twenty_questions", None),
    "opening_moves": ("tic_tac_toe", 6),
}


def _opening(config: Any, field: str) -> None:
    value = getattr(config, field)
    # After eight moves the next one ends the game.
    if isinstance(value, int) and not 0 <= value <= 7:
        raise invalid(field.removeprefix("X_"), value, "0 to 7")


def _favourites(config: Any, field: str) -> None:
    value = getattr(config, field)
    if isinstance(value, int) and not 1 <= value <= len(THINGS):
        raise invalid(field.removeprefix("X_"), value, f"1 to {len(THINGS)}")


# Of the embedded model. Matches against oneself are the noisiest, and want the smallest.
_EMBEDDED_RATES: dict[GameName, float] = {"guess_number": 3e-3, "twenty_questions": 3e-3, "tic_tac_toe": 1.5e-3}
# Settings that every game has, each with a default of its own; None in a config stands for it.
_BY_GAME: dict[str, dict[GameName, Any]] = {
    "batch_size": {"guess_number": 8, "twenty_questions": 8, "tic_tac_toe": 8},
    "group_size": {"guess_number": 12, "twenty_questions": 8, "tic_tac_toe": 12},
    "max_steps": {"guess_number": 20, "twenty_questions": 12, "tic_tac_toe": 24},
    # As turns are judged by what came soon after them, long games teach little more than their beginning.
    "max_turns": {"guess_number": None, "twenty_questions": 10, "tic_tac_toe": None},
    # Matches end in one of three ways, so that it takes more of them to see a difference.
    "eval_games": {"guess_number": 128, "twenty_questions": 54, "tic_tac_toe": 240},
    # A policy that plays itself finds an answer to itself, and would forget what answers others: the base holds it.
    "kl_penalty_coef": {"guess_number": 0.0, "twenty_questions": 0.0, "tic_tac_toe": 0.1},
}


@chz.chz
class Config(RLConfig):
    """Which game, and how it is played; the rest is that of reinforcement learning."""

    env: GameName = chz.field(default="guess_number", doc="the game: guess_number, twenty_questions or tic_tac_toe")
    rules: bool | None = chz.field(
        default=None, doc="tell the rules in a system message; None: to every model but the embedded one"
    )
    highest: int | None = chz.field(
        default=None, validator=at_least(4), doc="guess_number: the secret lies between 1 and this; None: 16"
    )
    max_guesses: int | None = chz.field(
        default=None, validator=at_least(1), doc="guess_number: guesses of a game; None: 8"
    )
    max_questions: int | None = chz.field(
        default=None, validator=at_least(1), doc="twenty_questions: questions of a game; None: 20"
    )
    favourites: int | None = chz.field(
        default=None,
        validator=_favourites,
        doc="twenty_questions: how many of the 54 things are ever thought of, drawn by seed; None: 9",
    )
    answerer_model: str | None = chz.field(
        default=None, doc="twenty_questions: model that answers; None: a rule, which knows 54 things"
    )
    answerer_renderer_name: str | None = chz.field(
        default=None, doc="twenty_questions: chat format of that model; None: its own"
    )
    opening_moves: int | None = chz.field(
        default=None,
        validator=_opening,
        doc="tic_tac_toe: games that are learned from begin after 0 to so many moves at random; None: 6",
    )
    eval_temperature: float = chz.field(
        default=1.0, validator=at_least(0), doc="of sampling in an evaluation; 1 is what training sees, 0 is greedy"
    )
    eval_games: int | None = chz.field(
        default=None, validator=at_least(1), doc="games of an evaluation; None: 128, 54 or 240, as the games are listed"
    )

    wasted_cost: float = chz.field(
        default=0.1,
        validator=at_least(0),
        doc="what a turn costs, in the searches that are learned from, that could tell nothing new",
    )

    # What a question narrows down is known at once, and so is an illegal move.
    turn_discount: float | None = chz.field(
        default=0.5,
        validator=discount_or_none,
        doc="judge each turn by its reward and those after it, so discounted; None: by its whole game",
    )
    lr_schedule: Schedule = chz.field(default="linear", doc="constant, linear or cosine, from the peak rate to 0")
    kl_penalty_coef: float | None = chz.field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default=None,
        validator=at_least(0),
        doc="weight of the penalty for leaving the reference; None: 0.1 in tic_tac_toe",
    )
    batch_size: int | None = chz.field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default=None,
        validator=at_least(1),
        doc="groups per step: secrets, or openings; None: 8",
    )
    group_size: int | None = chz.field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default=None,
        validator=at_least(1),
        doc="episodes per group, two a game in tic_tac_toe; None: 12, or 8 in twenty_questions",
    )
    max_steps: int | None = chz.field(
        default=None,
        validator=at_least(1),
        doc="steps to do; None: 20, 12 or 24, as the games are listed",
    )
    max_turns: int | None = chz.field(
        default=None,
        validator=at_least(1),
        doc="turns of a game that is learned from; None: all there are, or 10 in twenty_questions",
    )
    max_tokens: int = chz.field(default=32, validator=at_least(1), doc="longest turn, in tokens")
    lora_rank: int = chz.field(default=32, doc="rank of the adapter, 1 to 256")

    @chz.validate
    def _own(self) -> None:
        for name, (game, _) in _OWN.items():
            value = getattr(self, name)
            if value is not None and game != self.env:
                raise invalid(name, value, f"None, as env is {self.env} and this is a setting of {game}")
        if self.answerer_renderer_name is not None and self.answerer_model is None:
            raise invalid("answerer_renderer_name", self.answerer_renderer_name, "None, or an answerer_model")
        if self.env == "tic_tac_toe" and self.of_game("group_size") % 2:
            raise invalid("group_size", self.group_size, "an even number, as a game has two players")

    def of_game(self, name: str) -> Any:
        """Return a setting that one game has, or each with a default of its own; None stands for that default."""
        value = getattr(self, name)
        if value is not None:
            return value
        return _BY_GAME[name][self.env] if name in _BY_GAME else _OWN[name][1]

    def with_own(self) -> Config:
        """Return the config with the game's own defaults where nothing is given; the rate is the embedded model's."""
        own = {name: self.of_game(name) for name in _BY_GAME}
        if self.learning_rate is None and self.model_name == EMBEDDED_MODEL:
            own["learning_rate"] = _EMBEDDED_RATES[self.env]
        return chz.replace(self, **own)

    def tells_rules(self) -> bool:
        """Return whether the policy is told the rules."""
        # The embedded model has seen the games, and no system message in them.
        return self.model_name != EMBEDDED_MODEL if self.rules is None else self.rules
