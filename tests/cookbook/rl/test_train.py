"""The trainer on the embedded model: its rows and pages, every mode, resume, and what goes wrong in a run."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinsmith
from tests.cookbook.rl.sums import Sum, assert_same_rows, config, rows, sums, train
from tinsmith import ModelInput
from tinsmith.client.sampling.opened_sampler import _close
from tinsmith.cookbook import rl
from tinsmith.cookbook.renderers import Renderer
from tinsmith.cookbook.rl.learning.examples import examples_of
from tinsmith.cookbook.rl.rollouts.env_errors import ErrorPolicy
from tinsmith.cookbook.rl.rollouts.group_rollout import RolloutSettings, do_group_rollout
from tinsmith.cookbook.rl.rollouts.policy import Policy
from tinsmith.cookbook.rl.rollouts.rollout_thread import RolloutThread
from tinsmith.cookbook.rl.rollouts.seeds import derived_seed
from tinsmith.cookbook.runs import Run
from tinsmith.types.errors import TinsmithError, UserError


@pytest.fixture(autouse=True, scope="module")
def _home(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINSMITH_HOME", str(tmp_path_factory.mktemp("home")))
        yield


def stop_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    log_metrics = Run.log_metrics

    def stopping(self: Run, logged: int, metrics: Any) -> None:
        log_metrics(self, logged, metrics)
        if logged == step:
            raise KeyboardInterrupt

    monkeypatch.setattr(Run, "log_metrics", stopping)


def evaluator(run_config: rl.RLConfig) -> rl.RolloutEvaluator:
    held_out = [(a, 9 - a) for a in range(8)]

    class OfRun(rl.RolloutEvaluator):
        def __call__(self, context: Any) -> dict[str, float]:
            build = lambda pair: rl.RepeatedEnv(lambda: Sum(context.renderer, pair), 1)  # noqa: E731
            self._dataset = rl.ItemDataset(held_out, build, 4, None)
            return super().__call__(context)

    return OfRun(rl.ItemDataset([0], lambda _: rl.RepeatedEnv(dict, 1), 1), run_config.limits())


@pytest.mark.row(75, 80, 82, 84, 88, 110, 112, 113)
def test_a_synchronous_run_and_the_same_run_stopped_and_taken_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(folder: Path) -> Any:
        fields = config(folder, num_substeps=2, loss_fn="ppo", remove_constant_reward_groups=False)
        return train(fields, evaluators=[evaluator(fields)])

    result = run(tmp_path / "whole")
    found = rows(tmp_path / "whole")
    assert [row["step"] for row in found] == [0, 1, 2, 3, 4]
    first = found[0]
    assert first["env/episodes"] == 16
    assert first["env/reward"] == pytest.approx(first["env/correct"] + 0.1 * first["env/format"])
    assert first["env/reward/answer"] == pytest.approx(first["env/correct"])
    assert (first["rollout/sampler_age"], first["rollout/entropy"] > 0) == (0, True)
    # The first substep is on-policy, so the two together have moved a little.
    assert 0 < first["train/kl_sampler_learner_k2"] < 0.1
    assert 0 <= first["train/clip_share"] < 1
    assert [row.get("optim/adam_step") for row in found[:4]] == [2, 4, 6, 8]
    assert ["eval/test/correct" in row for row in found] == [True, False, True, False, True]
    assert result.metrics["eval/test/episodes"] == 8
    page = (tmp_path / "whole" / "transcripts" / "step-000002.html").read_text()
    for told in ("group 0 · sums · rewards", "answer", "format", "advantage", "logprob", "ended: done"):
        assert told in page
    with monkeypatch.context() as patch:
        stop_after(2, patch)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "cut")
    assert len(rows(tmp_path / "cut")) == 3
    run(tmp_path / "cut")
    assert_same_rows(rows(tmp_path / "cut"), found)


@pytest.mark.row(110)
@pytest.mark.parametrize("mode", [{"stream_minibatches": 2}, {"max_steps_off_policy": 2}])
def test_streaming_and_asynchronous_runs_skip_and_repeat_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: dict[str, Any]
) -> None:
    played: list[tuple[int, int]] = []

    class Noted(Sum):
        def get_question(self) -> str:
            played.append(self.pair)
            return super().get_question()

    fields = {"max_steps": 6, "save_every": 1, "eval_every": 0, **mode}
    with monkeypatch.context() as patch:
        stop_after(2, patch)
        with pytest.raises(KeyboardInterrupt):
            train(config(tmp_path, **fields), Noted)
    stopped_at = json.loads((tmp_path / "checkpoints.jsonl").read_text().splitlines()[-1])["step"]
    played.clear()
    train(config(tmp_path, **fields), Noted)
    found = rows(tmp_path)
    assert [row["step"] for row in found] == list(range(7))
    assert [row["optim/adam_step"] for row in found[:6] if "optim/adam_step" in row][-1] <= 6
    assert max(row["rollout/sampler_age"] for row in found[:6]) <= mode.get("max_steps_off_policy", 0)
    # The batches that were left, each once.
    dataset = sums(config(tmp_path, **fields), lambda _, pair: pair)(Model())
    left = [item for step in range(stopped_at, 6) for item in dataset.get_batch(step)]
    expected = [pair.make_env() for pair in left for _ in range(4)]
    assert sorted(played) == sorted(expected)


class Model:
    renderer = None


def test_a_step_learns_what_the_formulas_say(tmp_path: Path) -> None:
    """The row's loss and gradient are those of the same trajectories, made and forwarded by hand."""
    fields = config(tmp_path, max_steps=1, eval_every=0, remove_constant_reward_groups=False)
    train(fields)
    (row, _) = rows(tmp_path)
    with tinsmith.ServiceClient() as service, RolloutThread() as thread:
        client = service.create_lora_training_client("tinsmith-tiny", rank=4, seed=0)
        policy = Policy(client.save_weights_and_get_sampling_client(), context_length=1024)
        renderer = tiny(service)
        settings = RolloutSettings(renderer, fields.limits(), ErrorPolicy())
        builders = sums(fields)(type("Setup", (), {"renderer": renderer}))  # pyright: ignore[reportArgumentType]
        data = []
        for place, builder in enumerate(builders.get_batch(0)):
            group = thread.submit(do_group_rollout(builder, policy, settings, derived_seed(0, 0, place))).result()
            rewards = np.array(group.get_total_rewards())
            for trajectory, advantage in zip(group.trajectories, rewards - rewards.mean(), strict=True):
                data += [example.datum() for example in examples_of(trajectory, [advantage])]
        forward = client.forward_backward(data, "importance_sampling")
        step = client.optim_step(tinsmith.AdamParams(learning_rate=2e-3, beta2=0.95, eps=1e-8)).result()
        # Each ratio of the sum has the last bits of a sampled logprob, which follow the company that it was drawn in:
        # there all groups at once, here one by one.
        assert row["train/loss"] == pytest.approx(forward.result().metrics["loss:sum"], abs=2e-5)
        assert row["optim/grad_norm"] == pytest.approx(step.metrics["grad_norm"], rel=1e-4)


def tiny(service: tinsmith.ServiceClient) -> Renderer:
    from tinsmith.cookbook.model_info import renderer_of

    return renderer_of("tinsmith-tiny", service.get_tokenizer("tinsmith-tiny"), None)


@pytest.mark.row(94)
def test_a_penalty_holds_the_policy_to_its_reference(tmp_path: Path) -> None:
    train(config(tmp_path / "base", max_steps=2, eval_every=0, kl_penalty_coef=0.5, save_every=1))
    first, second, _ = rows(tmp_path / "base")
    # The adapter begins as the base; after a step it has left it.
    assert abs(first["train/kl_sampler_reference"]) < 1e-5
    assert abs(second["train/kl_sampler_reference"]) > 1e-5
    other = "tinker://x:train:0/sampler_weights/final"
    with pytest.raises(UserError, match="kl_reference"):
        train(config(tmp_path / "base", max_steps=3, kl_penalty_coef=0.5, kl_reference=other))
    with pytest.raises(UserError, match=r"kl_reference: .*kl_penalty_coef above 0"):
        config(tmp_path, kl_reference=other)


@pytest.mark.row(82)
def test_a_policy_that_went_too_far_is_sampled_anew(tmp_path: Path) -> None:
    fields = {"num_substeps": 4, "learning_rate": 0.2, "high_kl": 1e-3, "max_steps": 2, "eval_every": 0}
    train(config(tmp_path / "resample", on_high_kl="resample", **fields))
    train(config(tmp_path / "warn", **fields))
    resampled, warned = rows(tmp_path / "resample")[0], rows(tmp_path / "warn")[0]
    assert (resampled["rollout/resampled"], warned["rollout/resampled"]) == (1, 0)
    assert resampled["train/optimizer_steps"] < warned["train/optimizer_steps"]
    assert resampled["env/episodes"] == warned["env/episodes"]


@pytest.mark.parametrize("loss_fn", ["cispo", "gspo", "dro", "stable_reinforce", "cross_entropy"])
def test_other_losses_run(tmp_path: Path, loss_fn: str) -> None:
    train(config(tmp_path, loss_fn=loss_fn, max_steps=1, eval_every=0, advantages="leave_one_out"))
    row, _ = rows(tmp_path)
    assert ("train/clip_share" in row) == (loss_fn in ("cispo", "stable_reinforce"))
    assert np.isfinite(row["train/loss"])


def test_losses_and_their_settings_are_checked(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="loss_fn_config"):
        config(tmp_path, loss_fn="ppo", loss_fn_config={"beta": 1.0})
    with pytest.raises(UserError, match="advantages: got 'median', expected one of mean, mean_std, leave_one_out"):
        config(tmp_path, advantages="median")


@pytest.mark.row(7, 83)
def test_a_batch_of_equal_rewards_teaches_nothing_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Generous(Sum):
        def check_answer(self, sample: str) -> bool:
            return True

        def check_format(self, sample: str) -> bool:
            return True

    with caplog.at_level(logging.WARNING):
        train(config(tmp_path, max_steps=2, eval_every=0, loss_fn="cross_entropy", max_steps_off_policy=1), Generous)
    first, second, _ = rows(tmp_path)
    for row in (first, second):
        assert (row["env/constant_reward_share"], row["train/trained_tokens"], row["train/optimizer_steps"]) == (
            1,
            0,
            0,
        )
    assert "constant_reward_share" in caplog.text
    assert "cross_entropy knows nothing of who sampled" in caplog.text


def test_a_batch_in_which_every_group_failed_is_counted_and_the_run_goes_on(tmp_path: Path) -> None:
    class Closed(Sum):
        failures = 16

        def get_question(self) -> str:
            if Closed.failures:
                Closed.failures -= 1
                raise ConnectionError("the board is closed")
            return super().get_question()

    train(config(tmp_path, max_steps=2, eval_every=0, on_env_error="drop"), Closed)
    first, second, _ = rows(tmp_path)
    assert (first["env/episodes"], first["env/errors"], first["env/groups_lost"]) == (0, 16, 4)
    assert second["env/episodes"] == 16


def test_an_error_of_an_environment_ends_the_run_by_name_and_it_can_be_taken_up(tmp_path: Path) -> None:
    class Mends(Sum):
        broken = True

        def check_answer(self, sample: str) -> bool:
            if Mends.broken and self.pair == third:
                raise KeyError("abacus")
            return super().check_answer(sample)

    fields = {"max_steps": 4, "save_every": 1, "eval_every": 0}
    third = sums(config(tmp_path), lambda _, pair: pair)(Model()).get_batch(2)[1].make_env()
    with pytest.raises(TinsmithError, match=r"Mends\.step\(\), turn 0: KeyError: 'abacus'"):
        train(config(tmp_path / "broken", **fields), Mends)
    Mends.broken = False
    train(config(tmp_path / "broken", **fields), Mends)
    train(config(tmp_path / "whole", **fields), Mends)
    assert_same_rows(rows(tmp_path / "broken"), rows(tmp_path / "whole"))


def test_an_observation_outside_the_vocabulary_is_the_environments_error(tmp_path: Path) -> None:
    class Odd(rl.Env):
        async def initial_observation(self) -> Any:
            return ModelInput.from_ints([5, 99_999]), None

        async def step(self, action: list[int], *, extra: Any = None) -> rl.StepResult:
            raise AssertionError("never sampled")

    with pytest.raises(TinsmithError, match=r"Odd: observation: prompt\[1\]: got 99999, expected a token id"):
        train(config(tmp_path, eval_every=0), lambda *_: Odd())


def test_a_sampler_that_expires_is_made_anew_and_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = {"max_steps": 2, "eval_every": 0}
    train(config(tmp_path / "whole", **fields))
    taken = tinsmith.TrainingClient.save_weights_and_get_sampling_client
    ended: list[object] = []

    def expiring(self: tinsmith.TrainingClient, **options: Any) -> tinsmith.SamplingClient:
        sampler = taken(self, **options)
        if not ended:
            # The service lets go of it, as it does after a restart; the client knows nothing of that.
            self._session.submit(_close(sampler._session.connection, sampler._poster.opened)).result()
            ended.append(sampler)
        return sampler

    monkeypatch.setattr(tinsmith.TrainingClient, "save_weights_and_get_sampling_client", expiring)
    train(config(tmp_path / "expired", **fields))
    found = rows(tmp_path / "expired")
    assert [row.pop("rollout/samplers_renewed") for row in found[:2]] == [1, 1]
    expected = rows(tmp_path / "whole")
    assert [row.pop("rollout/samplers_renewed") for row in expected[:2]] == [0, 0]
    assert_same_rows(found, expected)


def test_other_data_are_refused_when_a_run_is_taken_up(tmp_path: Path) -> None:
    fields = config(tmp_path, max_steps=1, save_every=1, eval_every=0)
    train(fields)
    with pytest.raises(UserError, match="items"):
        rl.train(config(tmp_path, max_steps=2, eval_every=0), "sums", sums(fields, pairs=[(1, 1), (2, 2)] * 3))


def test_an_evaluation_that_fails_beside_the_training_ends_the_run(tmp_path: Path) -> None:
    class Broken:
        name = "broken"
        on_snapshot = True
        calls = 0

        def __call__(self, context: Any) -> dict[str, float]:
            assert (context.snapshot is None) == (context.step == 4)  # by then training has ended
            Broken.calls += 1
            if Broken.calls == 2:
                raise OSError("judge is away")
            return {"eval/broken": float(context.step)}

    fields = config(tmp_path, max_steps=4, save_every=1, eval_every=2)
    with pytest.raises(TinsmithError, match="evaluator broken, after 2 steps: OSError: judge is away"):
        train(fields, evaluators=[Broken()])
    train(fields, evaluators=[Broken()])
    assert [row.get("eval/broken") for row in rows(tmp_path)] == [0, None, 2, None, 4]
