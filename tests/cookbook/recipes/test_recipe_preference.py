"""Preferences: DPO, a reward model, RLHF in one command; their metrics, their resume, and the README's numbers."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.cookbook.recipes.expected import expected_numbers, run_without_arguments
from tests.cookbook.rl.sums import assert_same_rows
from tests.support.checkpoints import checkpoint
from tests.support.recipe_runs import RecipeRun
from tinsmith.cookbook.preference import RewardModel
from tinsmith.cookbook.recipes.preference import config as dpo_config
from tinsmith.cookbook.recipes.preference import train as dpo
from tinsmith.cookbook.recipes.preference.reward_model import train as reward_model
from tinsmith.cookbook.recipes.preference.rlhf import train as rlhf
from tinsmith.cookbook.rl import EnvError
from tinsmith.cookbook.runs.command import parse
from tinsmith.types.errors import TinsmithError, UserError

SMALL = ["batch_size=4", "held_out=6", "max_steps=2", "lora_rank=4"]
TOLD = ("loss", "accuracy", "margin", "chosen_reward", "rejected_reward")


def numbers_of(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a run without what time measures."""
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if not key.startswith("time/")} for row in rows]


@pytest.mark.row(90, 95, 113)
def test_dpo_tells_what_became_of_the_pairs(tmp_path: Path) -> None:
    plain = ["eval_every=1", 'loss_fn_config={"nll_coeff":0}', f"log_path={tmp_path}/run"]
    result = dpo.main(parse(dpo_config.Config, [*SMALL, *plain]))
    rows = numbers_of(tmp_path / "run")
    assert {f"train/{name}" for name in TOLD} <= set(rows[0])
    assert {f"test/{name}" for name in TOLD} | {"test/length", "eval/quality"} <= set(rows[-1])
    # Policy and reference are one before the first step: log 2, whatever the pairs are.
    assert rows[0]["train/loss"] == pytest.approx(0.6931, abs=1e-3)
    assert rows[0]["test/margin"] == pytest.approx(0.0, abs=1e-5)
    assert rows[-1]["test/margin"] != rows[0]["test/margin"]
    assert json.loads((tmp_path / "run/reference.json").read_text()) == {"reference": "base"}
    assert "Pairs of the batch" in (tmp_path / "run/transcripts/step-000000.html").read_text()
    assert result.steps == 2


@pytest.mark.row(90)
def test_settings_of_dpo_are_checked_at_the_door(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for settings, said in (
        (["beta=0"], "beta: got 0"),
        (["reference=mine"], "reference: got 'mine'"),
        (["loss_fn=simpo", "reference=base"], "None: loss_fn 'simpo' has no reference"),
        (['loss_fn_config={"smoothing":0.1}'], "smoothing"),
        (["beta=0.1", 'loss_fn_config={"dpo_beta":0.2}'], "None, as loss_fn_config has dpo_beta"),
    ):
        with pytest.raises(UserError, match=said):
            dpo.main(parse(dpo_config.Config, [*settings, f"log_path={tmp_path}/run"]))
    assert not (tmp_path / "run").exists()
    dpo.main(parse(dpo_config.Config, [*SMALL, "beta=2", "eval_every=0", f"log_path={tmp_path}/run"]))
    assert "beta: 2 is outside the usual 0.1 to 0.5" in caplog.text
    for loss in ("ipo", "simpo"):
        settings = [*SMALL, f"loss_fn={loss}", "eval_every=0", f"log_path={tmp_path}/{loss}"]
        dpo.main(parse(dpo_config.Config, settings))
        assert {f"test/{name}" for name in TOLD} <= set(numbers_of(tmp_path / loss)[-1])


@pytest.mark.row(92)
def test_dpo_on_a_file_with_judges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINSMITH_MODELS", f"judge={checkpoint('llama')}")
    pairs = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"{i}+{i}", "chosen": str(2 * i), "rejected": "no"} for i in range(20)]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    scored = reward_model.main(parse(reward_model.Config, [*SMALL, "eval_every=0", f"log_path={tmp_path}/scores"]))
    settings = [*SMALL, f"data={pairs}", "judge_model=judge", f"reward_model={scored.sampler_path}", "max_tokens=8"]
    dpo.main(parse(dpo_config.Config, [*settings, "eval_every=0", f"log_path={tmp_path}/run"]))
    after = numbers_of(tmp_path / "run")[-1]
    # Random weights give no verdict, and what has none is a tie.
    assert (after["eval/win_rate"], after["eval/win_rate/stderr"], after["eval/win_rate/no_verdict"]) == (0.5, 0.0, 1.0)
    assert 0.0 < after["eval/reward_win_rate"] < 1.0
    assert "eval/quality" not in after


@pytest.mark.row(93, 110)
def test_rlhf_trains_a_reward_model_and_a_policy_and_goes_on_in_the_second_stage(tmp_path: Path) -> None:
    settings = [
        *("batch_size=4", "group_size=2", "held_out=6", "lora_rank=4", "reward_steps=2", "reward_batch_size=4"),
        f"log_path={tmp_path}/run",
    ]
    rlhf.main(parse(rlhf.Config, [*settings, "max_steps=2"]))
    rows = numbers_of(tmp_path / "run")
    assert {"env/score", "env/quality", "train/kl_sampler_reference"} <= set(rows[0])
    assert {"eval/test/score", "eval/test/quality", "eval/test/reward"} <= set(rows[-1])
    first = numbers_of(tmp_path / "run/reward_model")
    assert {f"test/{name}" for name in TOLD} <= set(first[-1])
    held = json.loads((tmp_path / "run/groups.json").read_text())
    rlhf.main(parse(rlhf.Config, [*settings, "max_steps=3"]))
    assert numbers_of(tmp_path / "run/reward_model") == first
    assert json.loads((tmp_path / "run/groups.json").read_text()) == held
    longer = numbers_of(tmp_path / "run")
    assert [row["step"] for row in longer] == [0, 1, 2, 3]
    assert longer[:2] == rows[:2]


@pytest.mark.row(93)
def test_a_reward_model_that_gives_no_number_ends_the_run_and_leaves_no_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def score(*_: Any, **__: Any) -> float:
        raise TinsmithError("tinker://bad: score: got nan (logprobs nan, nan), expected a finite number")

    monkeypatch.setattr(RewardModel, "score_async", score)
    settings = [*SMALL, "group_size=2", "reward_steps=1", "reward_batch_size=4", "eval_every=0"]
    with pytest.raises(EnvError, match="score: got nan"):
        rlhf.main(parse(rlhf.Config, [*settings, f"log_path={tmp_path}/run"]))
    assert not (tmp_path / "run/checkpoints.jsonl").exists()
    assert (tmp_path / "run/metrics.jsonl").read_text() == "" if (tmp_path / "run/metrics.jsonl").exists() else True


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.row(90, 110)
def test_a_killed_dpo_run_keeps_its_reference_and_equals_an_undisturbed_one(tmp_path: Path) -> None:
    settings = ("batch_size=8", "max_steps=12", "held_out=12", "eval_every=4", "save_every=4", "lora_rank=8",
                "learning_rate=2e-3")  # fmt: skip
    whole = RecipeRun("preference.train", tmp_path / "whole", tmp_path / "home", settings, {})
    killed = RecipeRun("preference.train", tmp_path / "killed", tmp_path / "home", settings, {})
    whole.finish()
    random = Random(0)
    for rows in (6, 10):
        assert killed.kill_after(rows, random)
    assert "goes on" in killed.finish()
    # Margins are relative to the reference: another one would have brought them back to 0.
    assert killed.metrics() == whole.metrics()
    assert numbers_of(tmp_path / "killed")[-1]["test/margin"] > 0.05


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.row(93, 110)
def test_rlhf_that_is_killed_in_either_stage_equals_an_undisturbed_run(tmp_path: Path) -> None:
    settings = ("batch_size=4", "group_size=2", "max_steps=8", "reward_steps=8", "reward_batch_size=4", "held_out=8",
                "eval_every=4", "save_every=3", "lora_rank=8", "advantages=mean")  # fmt: skip
    whole = RecipeRun("preference.rlhf.train", tmp_path / "whole", tmp_path / "home", settings, {})
    killed = RecipeRun("preference.rlhf.train", tmp_path / "killed", tmp_path / "home", settings, {})
    whole.finish()
    # The first stage logs into a folder of its own.
    stage = RecipeRun("preference.rlhf.train", tmp_path / "killed/reward_model", tmp_path / "home", settings, {})
    _kill_in_first_stage(stage, killed)
    assert killed.kill_after(5, Random(1))
    killed.finish()
    assert numbers_of(tmp_path / "killed/reward_model") == numbers_of(tmp_path / "whole/reward_model")
    # Scores are logprobs of a sampler, whose last bit depends on what is computed beside them.
    assert_same_rows(killed.metrics(), whole.metrics())


def _kill_in_first_stage(stage: RecipeRun, run: RecipeRun) -> None:
    process = run.start()
    while len(stage.lines()) < 5:
        assert process.poll() is None, "the first stage was not killed"
    process.kill()
    process.communicate()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.row(91, 95, 108)
def test_dpo_without_arguments(tmp_path: Path) -> None:
    run_without_arguments("preference", tmp_path)
    rows = numbers_of(tmp_path / "run")
    after, _longer, _random = expected_numbers("preference")["chosen is preferred"]
    assert rows[-1]["test/accuracy"] >= after - 0.05
    assert rows[-1]["eval/quality"] > rows[0]["eval/quality"] - 0.02
    assert rows[-1]["test/margin"] > 0.3


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.row(93, 108)
def test_a_reward_model_without_arguments_ranks_held_out_pairs(tmp_path: Path) -> None:
    run_without_arguments("preference.reward_model", tmp_path)
    after = numbers_of(tmp_path / "run")[-1]
    assert after["test/accuracy"] >= 0.9
    assert abs(after["test/length"] - 0.5) < 0.1


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.row(93, 94, 108)
def test_rlhf_without_arguments_raises_the_score_and_stays_near_the_base(tmp_path: Path) -> None:
    run_without_arguments("preference.rlhf", tmp_path)
    rows = numbers_of(tmp_path / "run")
    before, after = rows[0], rows[-1]
    assert after["eval/test/score"] > before["eval/test/score"] + 0.15
    assert after["eval/test/quality"] > before["eval/test/quality"] - 0.08
