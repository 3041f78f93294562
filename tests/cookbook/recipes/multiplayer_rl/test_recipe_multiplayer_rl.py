"""The recipe as a whole: its settings, a short run of each game, and the numbers of its README."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import tinsmith
from tests.cookbook.recipes.multiplayer_rl.speaker import RENDERER
from tinsmith.cookbook.recipes.multiplayer_rl.config import Config
from tinsmith.cookbook.recipes.multiplayer_rl.multiplayer_rl_dataset import Game, load_game
from tinsmith.cookbook.recipes.multiplayer_rl.tic_tac_toe.board import EMPTY, FREE, X
from tinsmith.cookbook.recipes.multiplayer_rl.tic_tac_toe.minimax import value
from tinsmith.cookbook.recipes.multiplayer_rl.tic_tac_toe.odds import random_against_perfect
from tinsmith.cookbook.recipes.multiplayer_rl.train import main
from tinsmith.cookbook.runs.command import parse
from tinsmith.cookbook.tokenizer_utils import get_tokenizer
from tinsmith.cookbook.training import ModelSetup
from tinsmith.types.errors import UserError

GAMES = ("guess_number", "twenty_questions", "tic_tac_toe")
SMALL = ["batch_size=2", "group_size=4", "max_steps=2", "eval_games=8", "eval_every=2", "save_every=0", "lora_rank=4"]


def small(folder: Path, *arguments: str) -> Config:
    return parse(Config, [*SMALL, f"log_path={folder}", *arguments])


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a run without what time measures."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows]


@pytest.mark.row(96, 99, 103)
@pytest.mark.parametrize("env", GAMES)
def test_a_short_run_of_each_game(env: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = {"guess_number": "max_guesses=3", "twenty_questions": "max_questions=3"}.get(env, "opening_moves=5")
    result = main(small(tmp_path / "run", f"env={env}", own))
    assert result.steps == 2
    rows = rows_of(tmp_path / "run")
    assert [row["step"] for row in rows if f"eval/{env}/reward" in row] == [0, 2]
    assert [row["env/episodes"] for row in rows if "env/episodes" in row] == [8, 8]
    assert all(row["env/errors"] == 0 for row in rows if "env/errors" in row)
    shown = capsys.readouterr().out
    assert f"{env}, seed 0" in shown
    players = {key.split("/")[1] for key in rows[-1] if key.startswith("simple/")}
    assert players
    for player in players:
        assert player.split("_")[0] in shown
    page = next((tmp_path / "run").rglob("step-000002.html")).read_text()
    assert f"{env}: " in page


@pytest.mark.slow
@pytest.mark.row(99)
def test_a_model_may_answer_the_questions(tmp_path: Path) -> None:
    arguments = [
        "env=twenty_questions",
        "answerer_model=tinsmith-tiny",
        "max_questions=2",
    ]
    main(small(tmp_path / "run", *arguments))
    (row, *_) = rows_of(tmp_path / "run")
    assert row["env/unclear"] < 0.5  # it says yes or no, right or wrong
    with pytest.raises(Exception, match="nobody"):
        main(small(tmp_path / "other", "env=twenty_questions", "answerer_model=nobody"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["env=chess"], "env: got 'chess', expected one of|env: got 'chess'"),
        (["env=tic_tac_toe", "group_size=5"], "group_size: got 5, expected an even number"),
        (["env=tic_tac_toe", "highest=10"], "highest: got 10, expected None, as env is tic_tac_toe"),
        (["env=guess_number", "answerer_model=x"], "answerer_model: got 'x', expected None, as env is guess_number"),
        (["env=tic_tac_toe", "opening_moves=8"], "opening_moves: got 8, expected 0 to 7"),
        (["env=guess_number", "highest=3"], "highest: got 3, expected at least 4"),
        (["env=twenty_questions", "answerer_renderer_name=llama3"], "answerer_renderer_name: .* or an answerer_model"),
        (["env=twenty_questions", "favourites=55"], "favourites: got 55, expected 1 to 54"),
        (["env=twenty_questions", "max_questions=0"], "max_questions: got 0, expected at least 1"),
    ],
)
def test_settings_that_do_not_fit_are_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(Config, arguments)


def loaded(*arguments: str) -> Game:
    service = tinsmith.ServiceClient()
    return load_game(parse(Config, list(arguments)), ModelSetup(service, get_tokenizer("tinsmith-tiny"), RENDERER))


def items_of(dataset: Any) -> list[Any]:
    return list(dataset.items)


@pytest.mark.parametrize(("env", "count"), [("guess_number", 16), ("twenty_questions", 9)])
def test_every_secret_is_learned_and_measured(env: str, count: int) -> None:
    game = loaded(f"env={env}", "eval_games=60")
    learned, measured = items_of(game.groups), items_of(game.test)
    assert len(set(learned)) == len(learned) == count
    assert measured == learned
    assert all(group.group_size == -(-60 // count) for group in game.test.get_batch(0))


def test_favourites_are_drawn_by_seed() -> None:
    first, again, other = (
        items_of(loaded("env=twenty_questions", "favourites=5", f"seed={seed}").groups) for seed in (0, 0, 1)
    )
    assert first == again != other
    assert len(set(first)) == 5
    assert len(items_of(loaded("env=twenty_questions", "favourites=54").groups)) == 54


def test_no_match_to_learn_from_begins_with_a_board_that_is_held_out() -> None:
    game = loaded("env=tic_tac_toe", "eval_games=60")
    learned = {board for _, board in items_of(game.groups)}
    starts = [start for start, _ in items_of(game.test)]
    held_out = {start.board for start in starts if start.kind == "midgame"}
    assert [sum(start.kind == kind for start in starts) for kind in ("first", "second", "midgame")] == [20, 20, 20]
    assert not learned & held_out
    assert {9 - board.count(FREE) for board in learned} == set(range(7))
    assert all(value(board) >= 0 for board in held_out)
    odds = game.simple["any_free_cell"]
    assert odds["first/loss"] == pytest.approx(random_against_perfect(X).loss)
    assert 0.2 < odds["midgame/loss"] < odds["second/loss"]
    assert items_of(loaded("env=tic_tac_toe", "opening_moves=0").test)[0][0].board == EMPTY


def test_the_rules_are_told_to_models_that_do_not_know_the_games() -> None:
    assert not parse(Config, []).tells_rules()
    assert parse(Config, ["rules=true"]).tells_rules()
    assert parse(Config, ["model_name=Qwen/Qwen3-8B"]).tells_rules()
    assert not parse(Config, ["model_name=Qwen/Qwen3-8B", "rules=false"]).tells_rules()


def test_each_game_has_defaults_of_its_own() -> None:
    assert parse(Config, []).with_own().learning_rate == 3e-3
    assert parse(Config, ["env=tic_tac_toe"]).with_own().learning_rate == 1.5e-3
    assert parse(Config, ["learning_rate=3e-4"]).with_own().learning_rate == 3e-4
    assert parse(Config, ["model_name=Qwen/Qwen3-8B"]).with_own().learning_rate is None
    assert parse(Config, []).with_own().kl_penalty_coef == 0.0
    assert parse(Config, ["env=tic_tac_toe"]).with_own().kl_penalty_coef == 0.1
    assert parse(Config, ["env=tic_tac_toe", "kl_penalty_coef=0"]).with_own().kl_penalty_coef == 0.0
    questions = parse(Config, ["env=twenty_questions", "max_steps=7"]).with_own()
    assert (questions.batch_size, questions.max_steps, questions.eval_games) == (8, 7, 54)
    with pytest.raises(UserError, match=r"turn_discount: got 2\.0, expected 0 to 1, or None"):
        parse(Config, ["turn_discount=2"])


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.row(99, 108)
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    ("env", "name", "by"),
    [("guess_number", "guesses", -0.6), ("twenty_questions", "reward", 0.1), ("tic_tac_toe", "loss", -0.02)],
)
def test_each_game_is_learned(env: str, name: str, by: float, seed: int, tmp_path: Path) -> None:
    main(parse(Config, [f"env={env}", f"seed={seed}", "save_every=0", f"log_path={tmp_path}/run"]))
    rows = rows_of(tmp_path / "run")
    key = f"eval/{env}/{name}"
    assert (rows[-1][key] - rows[0][key]) / by >= 1
    if env == "twenty_questions":
        assert rows[-1][key] > max(rows[-1]["simple/one_thing/reward"], rows[-1]["simple/any_question/reward"])
