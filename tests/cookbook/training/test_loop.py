"""What the loop asks of a trainer suffices for more than supervised learning: rollouts, substeps, own numbers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import tinsmith
from tinsmith import embedded
from tinsmith.client.transport.loop import background
from tinsmith.cookbook.completers import Completer, SampledTurn
from tinsmith.cookbook.datasets import pig_latin
from tinsmith.cookbook.eval import EvalContext
from tinsmith.cookbook.runs import Run, Transcript
from tinsmith.cookbook.training import (
    Evaluation,
    LearningRates,
    ModelSetup,
    SubmittedStep,
    TrainingConfig,
    TrainResult,
    run_trainer,
    set_up_model,
)

GROUP = 4


def settings(folder: Path, **fields: Any) -> TrainingConfig:
    given = {"max_steps": 4, "batch_size": 2, "lora_rank": 4, "learning_rate": 1e-2, "save_every": 2, "eval_every": 2}
    return TrainingConfig(log_path=str(folder), **{**given, **fields})


@dataclass
class Substeps(SubmittedStep):
    """A step of two optimizer substeps, with a reward beside them."""

    reward: float
    learning_rate: float
    passes: list[tuple[Any, Any]]

    def metrics(self) -> Mapping[str, float]:
        losses = [forward.result().metrics["loss:sum"] for forward, _ in self.passes]
        steps = [(optim.result().metrics or {})["adam_step"] for _, optim in self.passes]
        return {"env/reward": self.reward, "train/loss": losses[-1], "optim/adam_step": steps[-1],
                "learning_rate": self.learning_rate}  # fmt: skip

    def show(self, page: Transcript) -> None:
        page.text(f"reward {self.reward}")


class Rollouts:
    """Samples a group per question from the weights as they are, and learns from the rewards in two substeps."""

    def __init__(self, config: TrainingConfig, model: ModelSetup, rates: LearningRates) -> None:
        self.config, self.model, self.rates = config, model, rates

    def start(self, client: tinsmith.TrainingClient) -> None:
        self.client = client

    def submit(self, step: int) -> Substeps:
        words = pig_latin.draw_words("train", self.config.batch_size, seed=step)
        prompts = [self.model.renderer.build_generation_prompt(pig_latin.row(word)["messages"][:1]) for word in words]
        completer = Completer(self.client.save_weights_and_get_sampling_client(), self.model.renderer)
        groups = completer.complete(prompts, num_samples=GROUP, max_tokens=6, temperature=4.0, seed=step * 100)
        data: list[tinsmith.Datum] = []
        rewards: list[float] = []
        for prompt, group in zip(prompts, groups, strict=True):
            given = [float(turn.tokens[0] % 2) for turn in group]
            mean = sum(given) / GROUP
            data += [learned(prompt, turn, reward - mean) for turn, reward in zip(group, given, strict=True)]
            rewards += given
        passes = [
            (
                self.client.forward_backward(data, "importance_sampling"),
                self.client.optim_step(self.rates.adam_params(step)),
            )
            for _ in range(2)
        ]
        return Substeps(sum(rewards) / len(rewards), self.rates.at(step), passes)


def learned(prompt: tinsmith.ModelInput, turn: SampledTurn, advantage: float) -> tinsmith.Datum:
    tokens, before = [*prompt.to_ints(), *turn.tokens], [0.0] * (prompt.length - 1)
    inputs: dict[str, Any] = {
        "target_tokens": tokens[1:],
        "logprobs": before + turn.logprobs,
        "advantages": before + [advantage] * len(turn.tokens),
    }
    return tinsmith.Datum(model_input=tinsmith.ModelInput.from_ints(tokens[:-1]), loss_fn_inputs=inputs)


def run_rollouts(config: TrainingConfig) -> TrainResult:
    def steps(context: EvalContext) -> dict[str, float]:
        return {"eval/steps": context.step}

    with Run(config, "rollouts") as run:
        model = set_up_model(run, config)
        rates = LearningRates(config, config.max_steps or 0)
        trainer = Rollouts(config, model, rates)
        return run_trainer(trainer, run, rates, Evaluation(config, run, model, [steps]), {"group": GROUP})


def rows_of(folder: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if not name.startswith("time/")} for row in rows]


@pytest.fixture
def invariant_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A service of this process whose bits follow no load; without it, how requests are cut into passes does."""
    stop_service()
    monkeypatch.setenv("TINSMITH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TINSMITH_BATCH_INVARIANT", "true")
    yield
    stop_service()


def stop_service() -> None:
    # A process has one, with the settings that it was started with, by whichever test that was.
    background().submit(embedded.stop()).result(60)


@pytest.mark.row(75, 110)
@pytest.mark.usefixtures("invariant_service")
def test_a_step_may_be_rollouts_and_several_substeps_and_is_resumed_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    result = run_rollouts(settings(whole))
    rows = rows_of(whole)
    assert [row.get("eval/steps") for row in rows] == [0, None, 2, None, 4]
    assert [row["optim/adam_step"] for row in rows[:-1]] == [2, 4, 6, 8]
    assert [row["learning_rate"] for row in rows[:-1]] == pytest.approx([1e-2, 7.5e-3, 5e-3, 2.5e-3])
    assert any(0 < row["env/reward"] < 1 for row in rows[:-1])
    assert (result.steps, result.metrics["eval/steps"]) == (4, 4)
    assert "reward " in (whole / "transcripts/step-000002.html").read_text()

    log_metrics = Run.log_metrics

    def stop_after_three(self: Run, step: int, metrics: Any) -> None:
        log_metrics(self, step, metrics)
        if step == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Run, "log_metrics", stop_after_three)
        with pytest.raises(KeyboardInterrupt):
            run_rollouts(settings(cut))
    assert [row["step"] for row in rows_of(cut)] == [0, 1, 2]
    run_rollouts(settings(cut))
    assert rows_of(cut) == rows
