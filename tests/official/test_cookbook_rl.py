"""Reinforcement learning of the unmodified `tinker-cookbook` 0.6.1 against `tinsmith serve`, in every mode."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

import tinsmith
from tests.official.cookbook import Recipe, read_lines
from tests.official.cookbook_desk import MODELS
from tests.support.live_server import LiveServer

pytestmark = [pytest.mark.row(202, 203), pytest.mark.slow, pytest.mark.timeout(900)]

BASE = MODELS[-1]
HERE = Path(__file__).parent
MODES = {
    "sync": (),
    "streaming": ("stream_minibatch_config.groups_per_batch=8", "stream_minibatch_config.num_minibatches=2"),
    "async": ("max_steps_off_policy=2",),
}


def math_rl(server: LiveServer, desk: Path, *arguments: str) -> Recipe:
    """The recipe on sums, where every group is eight answers of at most five tokens."""
    usual = (f"model_name={BASE}", "log_path=run", "max_tokens=5", "group_size=8", "eval_every=0", "save_every=0")
    return Recipe(server, desk, "-m", "tinker_cookbook.recipes.math_rl.train", *usual, *arguments)


def steps_of(run: Path) -> list[dict[str, Any]]:
    """Return the rows of metrics that tell of a step; the last row of a run tells of tokens only."""
    return [row for row in read_lines(run / "metrics.jsonl") if "env/all/reward/total" in row]


def check_final(server: LiveServer, run: Path) -> None:
    """Check that the final state goes on with our SDK, and the final weights can be sampled from."""
    final = read_lines(run / "checkpoints.jsonl")[-1]
    assert final["name"] == "final"
    with tinsmith.ServiceClient(base_url=server.url, api_key=server.key) as service:
        training = service.create_training_client_from_state_with_optimizer(final["state_path"])
        training.forward_backward([tinsmith.Datum(tokens=[1, 2], targets=[2, 3])], "cross_entropy").result()
        sampler = service.create_sampling_client(final["sampler_path"])
        assert sampler.sample([1, 2], 1, {"max_tokens": 2}).result().sequences


@pytest.mark.parametrize("loss_fn", ["stable_reinforce", "importance_sampling"])
@pytest.mark.parametrize("mode", MODES)
def test_math_rl_trains_in_every_mode(mode: str, loss_fn: str, qwen_server: LiveServer, qwen_desk: Path) -> None:
    # The default is left to the recipe.
    asked = () if loss_fn == "stable_reinforce" else (f"loss_fn={loss_fn}",)
    math_rl(qwen_server, qwen_desk, "max_steps=3", "groups_per_batch=8", *MODES[mode], *asked).run()
    rows = steps_of(qwen_desk / "run")
    assert [row["step"] for row in rows] == [0, 1, 2]
    assert any(row["grad_norm"] > 0 for row in rows)
    assert all(math.isfinite(row["grad_norm"]) for row in rows)
    # Sampler and trainer hold the same weights, or weights that are two steps apart.
    far = 1e-5 if mode == "sync" else 0.05
    assert all(abs(row["optim/kl_sample_train_v1"]) < far for row in rows), rows
    assert abs(rows[0]["optim/kl_sample_train_v1"]) < 1e-5
    check_final(qwen_server, qwen_desk / "run")


@pytest.mark.parametrize("loss_fn", ["gspo", "ppo", "cispo"])
def test_math_rl_trains_with_the_other_losses(loss_fn: str, qwen_server: LiveServer, qwen_desk: Path) -> None:
    """The trainer sends no `sequence_ratio_mask` for gspo: the ratio is over the tokens that train."""
    math_rl(qwen_server, qwen_desk, "max_steps=2", "groups_per_batch=8", f"loss_fn={loss_fn}").run()
    rows = steps_of(qwen_desk / "run")
    assert [row["step"] for row in rows] == [0, 1]
    assert any(row["grad_norm"] > 0 for row in rows)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_the_default_loss_learns(mode: str, qwen_server: LiveServer, qwen_desk: Path) -> None:
    arguments = ("max_steps=30", "groups_per_batch=16", "learning_rate=1e-3", *MODES[mode])
    math_rl(qwen_server, qwen_desk, *arguments).run(timeout_s=600)
    rewards = [row["env/all/reward/total"] for row in steps_of(qwen_desk / "run")]
    assert len(rewards) == 30
    first, last = sum(rewards[:5]) / 5, sum(rewards[-5:]) / 5
    assert last > first + 0.1, rewards


def test_rl_loop_runs_with_its_default_loss_and_resumes(qwen_server: LiveServer, qwen_desk: Path) -> None:
    run = qwen_desk / "run"
    recipe = Recipe(
        qwen_server,
        qwen_desk,
        *("-m", "tinker_cookbook.recipes.rl_loop", f"model_name={BASE}", "log_path=run", "batch_size=8"),
        *("group_size=8", "max_tokens=16", "learning_rate=1e-3", "max_steps=4", "save_every=2"),
    )
    recipe.run_until(lambda: len(read_lines(run / "metrics.jsonl")) == 3)
    before = read_lines(run / "metrics.jsonl")
    recipe.run()
    rows = read_lines(run / "metrics.jsonl")
    assert [row["step"] for row in before] == [0, 1, 2]
    # The flat loop does what came after the last state again, and leaves the old rows.
    assert [row["step"] for row in rows[len(before) :]] == [2, 3]
    assert any(row.get("grad_norm", 0) > 0 for row in rows)
    check_final(qwen_server, run)


@pytest.mark.parametrize("loss_fn", ["gspo", "cispo", "importance_sampling"])
def test_rl_loop_runs_with_every_loss_that_it_offers(loss_fn: str, qwen_server: LiveServer, qwen_desk: Path) -> None:
    """With gspo it sends the mask that the ratio is taken over."""
    Recipe(
        qwen_server,
        qwen_desk,
        *("-m", "tinker_cookbook.recipes.rl_loop", f"model_name={BASE}", "log_path=run", "batch_size=8"),
        *("group_size=8", "max_tokens=16", "max_steps=2", f"loss_fn={loss_fn}"),
    ).run()
    rows = read_lines(qwen_desk / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [0, 1]
    assert any(row.get("grad_norm", 0) > 0 for row in rows)


@pytest.mark.parametrize("loss_fn", ["stable_reinforce", "importance_sampling"])
def test_sampler_and_trainer_agree_at_every_depth_of_long_episodes(
    loss_fn: str, qwen_server: LiveServer, qwen_desk: Path
) -> None:
    run = qwen_desk / "run"
    plan = {"steps": 2, "turns": 6, "words": 90, "sampled": 24, "loss_fn": loss_fn}
    named = {"model_name": BASE, "log_path": str(run), "base_url": qwen_server.url}
    Recipe(qwen_server, qwen_desk, str(HERE / "cookbook_numerics.py"), json.dumps(plan | named)).run(timeout_s=600)
    rows = steps_of(run)
    assert [row["step"] for row in rows] == [0, 1]
    assert all(row["env/all/turns_per_episode"] == plan["turns"] and row["grad_norm"] > 0 for row in rows)
    assert all(abs(row["optim/kl_sample_train_v1"]) < 1e-6 for row in rows), rows
    depths = json.loads((run / "depths.json").read_text())
    assert depths[-1]["to"] > 2000
    for part in depths:
        assert abs(part["v1"]) < 2e-6, depths
        assert part["largest"] < 2e-5, depths
