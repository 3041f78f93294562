"""Games of several turns: guess the number, twenty questions, and tic-tac-toe against oneself.

    python -m tinsmith.cookbook.recipes.multiplayer_rl.train
    python -m tinsmith.cookbook.recipes.multiplayer_rl.train env=tic_tac_toe
    python -m tinsmith.cookbook.recipes.multiplayer_rl.train env=twenty_questions model_name=Qwen/Qwen3-8B \
        answerer_model=meta-llama/Llama-3.1-8B-Instruct batch_size=64 log_path=runs/questions

Without arguments the embedded model learns to guess a number.
"""

from __future__ import annotations

from dataclasses import replace

from rich.console import Console
from rich.table import Table

from tinsmith.cookbook.eval import EvalContext
from tinsmith.cookbook.recipes.multiplayer_rl.config import Config
from tinsmith.cookbook.recipes.multiplayer_rl.multiplayer_rl_dataset import Game, load_game
from tinsmith.cookbook.rl import RolloutEvaluator, train_on_groups
from tinsmith.cookbook.rl.trainer.config import FREE
from tinsmith.cookbook.runs import Run
from tinsmith.cookbook.runs.command import run_recipe
from tinsmith.cookbook.runs.jsonl import read_rows
from tinsmith.cookbook.training import TrainResult, set_up_model

RECIPE = "multiplayer_rl"


def main(config: Config) -> TrainResult:
    """Learn a game, and show what the policy came to in it beside simple players.

    Raises:
        UserError: a setting cannot be used.
        EnvError: a game failed, and `on_env_error` does not go on.
        TinsmithError: the service failed.
    """
    # In the config, and so in `config.json`, which a run that is taken up again is held to.
    config = config.with_own()
    with Run(config, RECIPE, free=FREE) as run:
        model = set_up_model(run, config)
        game = load_game(config, model)

        def simple(_: EvalContext) -> dict[str, float]:
            return {f"simple/{player}/{n}": v for player, found in game.simple.items() for n, v in found.items()}

        whole = replace(config.limits(), max_turns=None)
        played = RolloutEvaluator(game.test, whole, config.env, temperature=config.eval_temperature)
        evaluators = [played, simple]
        result = train_on_groups(config, run, model, game.groups, evaluators=evaluators, advantages=game.advantages)
    _show(config, game, result)
    return result


def _show(config: Config, game: Game, result: TrainResult) -> None:
    # With eval_every=0 there is no evaluation before the last.
    before, after = read_rows(result.path / "metrics.jsonl")[0], result.metrics
    players = {player.replace("_", " "): found for player, found in game.simple.items()}
    table = Table("games", "before", *players, "after", title=f"{config.env}, seed {config.seed}")
    for name in game.shown:
        simple = [_number(found.get(name)) for found in players.values()]
        key = f"eval/{config.env}/{name}"
        table.add_row(name.replace("/", ": "), _number(before.get(key)), *simple, _number(after.get(key)))
    Console().print(table)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    run_recipe(main, Config, RECIPE)
