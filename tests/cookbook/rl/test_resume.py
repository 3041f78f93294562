"""Runs that are killed and started again by the same command, in each mode."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from tests.cookbook.rl.sums import assert_same_rows
from tests.support.recipe_runs import RecipeRun, saved_adapter

SETTINGS = ("max_steps=14", "save_every=5", "rolling_save_every=2", "eval_every=0", "batch_size=4", "group_size=4")


def pair(folder: Path, *settings: str) -> tuple[RecipeRun, RecipeRun]:
    made = [
        RecipeRun("tests.cookbook.rl.sums", folder / name, folder / "home", (*SETTINGS, *settings), {})
        for name in ("whole", "killed")
    ]
    return made[0], made[1]


def kill_again_and_again(run: RecipeRun, random: Random) -> None:
    killed = 0
    for _ in range(4):
        killed += run.kill_after(min(13, len(run.lines()) + random.randint(1, 4)), random)
    assert killed >= 2
    run.finish()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.row(110)
def test_a_synchronous_run_comes_to_the_same_end(tmp_path: Path) -> None:
    whole, killed = pair(tmp_path, "num_substeps=2", "remove_constant_reward_groups=false")
    whole.finish()
    kill_again_and_again(killed, Random(0))
    assert_same_rows(killed.metrics(), whole.metrics())
    adapters = [saved_adapter(run.final()["sampler_path"], run.home) for run in (killed, whole)]
    for name, value in adapters[1].items():
        # Adam divides by the size of a gradient, so an element with hardly any carries the last bit of its logprobs.
        difference = np.abs(adapters[0][name] - value)
        assert difference.max() <= 1e-3 * np.abs(value).max() + 1e-6, name


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.row(110)
@pytest.mark.parametrize("mode", ["stream_minibatches=2", "max_steps_off_policy=2"])
def test_streaming_and_asynchronous_runs_skip_and_repeat_no_batch(tmp_path: Path, mode: str) -> None:
    ahead = 2 if "off_policy" in mode else 0
    _, killed = pair(tmp_path, mode, "remove_constant_reward_groups=false")
    kill_again_and_again(killed, Random(1))
    rows: list[dict[str, Any]] = killed.metrics()
    assert [row["step"] for row in rows] == list(range(15))
    # One optimizer step for each batch, whatever was killed in between.
    assert [row["optim/adam_step"] for row in rows[:14]] == list(range(1, 15))
    assert all(row["rollout/sampler_age"] <= ahead for row in rows[:14])
    starts = [json.loads(line) for line in (killed.log_path / "starts.jsonl").read_text().splitlines()]
    assert len(starts) >= 3
