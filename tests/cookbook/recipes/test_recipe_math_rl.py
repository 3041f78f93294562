"""Reinforcement learning on problems: the course's command lines, files of one's own, rewards, and what it learns."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.cookbook.rl.scripted import tiny_renderer
from tests.support.checkpoints import checkpoint
from tinsmith.cookbook import notices
from tinsmith.cookbook.problems import load_problems
from tinsmith.cookbook.recipes.math_rl.config import Config
from tinsmith.cookbook.recipes.math_rl.math_rl_dataset import STANDARD, convo_prefix, groups
from tinsmith.cookbook.recipes.math_rl.train import main
from tinsmith.cookbook.rl import RewardMap, RLDataset
from tinsmith.cookbook.runs.command import parse
from tinsmith.cookbook.runs.jsonl import read_rows
from tinsmith.types.errors import UserError

LLAMA = "meta-llama/Llama-3.1-8B-Instruct"


@pytest.fixture(autouse=True)
def _fresh_notices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "_said", set())


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def gsm8k(folder: Path) -> tuple[Path, Path]:
    """Write rows as GSM8K has them; return the files of both splits."""
    rows = [
        {"question": f"Anna has {a} coins and finds {b} more. How many?", "answer": f"{a}+{b}={a + b}\n#### {a + b}"}
        for a in range(6)
        for b in range(4)
    ]
    return write(folder / "train.jsonl", *rows[:16]), write(folder / "test.jsonl", *rows[16:])


@pytest.mark.row(74, 87, 105)
@pytest.mark.parametrize(
    "more",
    [
        ["group_size=64"],
        pytest.param(
            ["group_size=32", "learning_rate=5e-4", "batch_size=64", "wandb_project=tinsmith"], marks=pytest.mark.slow
        ),
    ],
    ids=["short", "long"],
)
def test_the_command_lines_of_the_course(
    more: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As they stand, with a local checkpoint under that name; where there is no hub, a warning says what is learned."""
    monkeypatch.setenv("TINSMITH_MODELS", f"{LLAMA}={checkpoint('llama')}")
    monkeypatch.setenv("WANDB_MODE", "offline")
    course = ["env=gsm8k", f"model_name={LLAMA}", *more]
    config = parse(Config, [*course, f"log_path={tmp_path}/run"])
    small = ["max_steps=1", "max_tokens=2", "eval_every=0", "eval_problems=4", f"log_path={tmp_path}/run"]
    main(parse(Config, [*course, *small]))
    assert "env: gsm8k cannot be had: the hub" in caplog.text
    first, last = read_rows(tmp_path / "run/metrics.jsonl")
    assert first["env/episodes"] == config.group_size * (config.batch_size or 16)
    assert last["eval/arithmetic/episodes"] == 4
    kept = json.loads((tmp_path / "run/config.json").read_text())
    assert (kept["recipe"], kept["env"], kept["group_size"]) == ("math_rl", "gsm8k", config.group_size)


@pytest.mark.row(73, 97, 105)
def test_files_of_one_s_own_with_their_own_test_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train, test = gsm8k(tmp_path)
    settings = ["batch_size=4", "group_size=4", "max_tokens=24", "eval_every=1", "lora_rank=4"]
    result = main(parse(Config, [f"env={train}", f"test={test}", *settings, "max_steps=2", f"log_path={tmp_path}/run"]))
    rows = read_rows(tmp_path / "run/metrics.jsonl")
    assert all(row["eval/test/episodes"] == 8 for row in rows)
    assert all(0.0 <= row["eval/test/correct"] <= 1.0 for row in rows)
    # Of the 16 sums that are trained on the most frequent is 3 or 4, and the test split has others.
    assert rows[0]["eval/test/majority"] == result.metrics["eval/test/majority"] < 0.5
    assert rows[0]["env/reward"] == pytest.approx(rows[0]["env/correct"] + 0.1 * rows[0]["env/format"])
    assert "8 of test" in capsys.readouterr().out
    held = json.loads((tmp_path / "run/groups.json").read_text())
    assert (held["problems"], held["train"], held["test"], held["items"]) == ("test", 16, 8, 16)
    # Other problems make it another run.
    train.write_text("".join(train.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(UserError, match="groups"):
        main(parse(Config, [f"env={train}", f"test={test}", *settings, "max_steps=3", f"log_path={tmp_path}/run"]))


@pytest.mark.row(73)
@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ([], RewardMap(1.0, 0.0, 0.1, 0.0)),
        (["reward_boxed=0"], RewardMap(1.0, 0.0, 0.0, 0.0)),
        (["reward_wrong=-1", "reward_boxed=0"], RewardMap(1.0, -1.0, 0.0, 0.0)),
        (["reward_boxed=0", "reward_unboxed=-0.1"], RewardMap(1.0, 0.0, 0.0, -0.1)),
    ],
    ids=["bonus", "0/1", "+-1", "penalty"],
)
def test_what_an_answer_is_worth_is_a_setting(settings: list[str], expected: RewardMap) -> None:
    assert parse(Config, settings).rewards() == expected


def test_what_comes_before_each_question(tmp_path: Path) -> None:
    system = {"role": "system", "content": "Be careful."}
    assert convo_prefix(None, None) == []
    assert convo_prefix("Be careful.", "standard") == [system, *STANDARD]
    mine = write(
        tmp_path / "shots.jsonl", {"messages": [dict(m) for m in STANDARD]}, {"prompt": "1+1", "completion": "2"}
    )
    assert [message["content"] for message in convo_prefix(None, str(mine))][2:] == ["1+1", "2"]
    with pytest.raises(UserError, match=r"nowhere\.jsonl"):
        convo_prefix(None, "nowhere.jsonl")


def test_a_system_prompt_and_examples_are_read_by_the_policy(tmp_path: Path) -> None:
    settings = ["batch_size=2", "group_size=2", "max_tokens=2", "max_steps=1", "eval_every=0", "eval_problems=2"]
    lengths = []
    for name, more in (("plain", []), ("asked", ["system_prompt=Be careful.", "few_shot=standard"])):
        main(parse(Config, [*settings, *more, f"log_path={tmp_path}/{name}"]))
        lengths.append(read_rows(tmp_path / name / "metrics.jsonl")[0]["env/observed_tokens"])
    # One byte is one token; every message has a mark before and behind it.
    said = ["Be careful.", *(message["content"] for message in STANDARD)]
    assert lengths[1] - lengths[0] == sum(len(text) + 2 for text in said)


@pytest.mark.row(104)
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("held_out=0", "held_out: got 0, expected a number of problems, or a share"),
        ("eval_temperature=-1", "eval_temperature: got -1.0, expected at least 0"),
        ("eval_problems=0", "eval_problems: got 0, expected at least 1"),
        ("env=gsm9k", r"env: got 'gsm9k', .*\(did you mean 'gsm8k'\?\)"),
    ],
)
def test_settings_that_cannot_be_used_are_refused_before_a_run_is_begun(
    setting: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        main(parse(Config, [setting, f"log_path={tmp_path}/run"]))
    assert not (tmp_path / "run").exists()


@pytest.mark.row(80, 85)
def test_held_out_problems_are_asked_once_in_order_and_the_others_in_groups() -> None:
    config = parse(Config, ["batch_size=3", "group_size=4"])
    problems = load_problems()
    model: Any = SimpleNamespace(renderer=tiny_renderer())
    asked = [envs for batch in batches(groups(config, problems, held_out=True)(model)) for envs in batch]
    assert [env.problem for (env,) in asked] == [problem.problem for problem in problems.test]
    learned = batches(groups(config, problems)(model))
    assert {len(batch) for batch in learned} == {3}
    for envs in (envs for batch in learned for envs in batch):
        assert len({env.problem for env in envs}) == 1
        assert [env.get_question() for env in envs] == [envs[0].problem + " Write in \\boxed{}."] * 4
    assert len({envs[0].problem for batch in learned for envs in batch}) == 3 * len(learned)


def batches(dataset: RLDataset) -> list[list[Any]]:
    async def made() -> list[list[Any]]:
        return [[await group.make_envs() for group in dataset.get_batch(index)] for index in range(len(dataset))]

    return asyncio.run(made())


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.row(89, 108)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_without_arguments_it_learns_sums_that_it_never_trained_on(seed: int, tmp_path: Path) -> None:
    """Thirty points on every seed, sampled at temperature 1; seed 0 is what the command does without arguments."""
    used = time.process_time()
    result = main(parse(Config, [f"seed={seed}", f"log_path={tmp_path}/run"]))
    # The engine is in this process: what a quiet machine takes with one thread, whatever else this one does.
    assert time.process_time() - used < 300
    before = read_rows(tmp_path / "run/metrics.jsonl")[0]
    assert result.metrics["eval/arithmetic/correct"] - before["eval/arithmetic/correct"] >= 0.30
    assert result.metrics["eval/arithmetic/correct"] > result.metrics["eval/arithmetic/majority"] + 0.2
