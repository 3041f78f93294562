"""What a run warns about: each cause once, with the number, the bound and what to do."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import pytest

from tinsmith import hub
from tinsmith.cookbook.runs import Run, RunConfig
from tinsmith.cookbook.runs.metrics.watches import Watches


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "tinsmith.cookbook")
    return caplog


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(record.levelname, record.message) for record in caplog.records]


@pytest.mark.row(118)
@pytest.mark.parametrize(
    ("metric", "fine", "bad", "message"),
    [
        ("kl_sampler_learner", 0.05, 0.2, "optim/kl_sampler_learner: 0.2 at step 1 is above 0.1; the weights that"),
        ("sampler_age", 8, 9, "optim/sampler_age: 9 at step 1 is above 8 steps; the sampler has not been refreshed"),
        ("constant_reward_share", 0.5, 0.6, "optim/constant_reward_share: 0.6 at step 1 is above 0.5; in so many"),
        ("truncated_share", 0.1, 0.2, "optim/truncated_share: 0.2 at step 1 is above 0.1; so many are cut off"),
        ("trained_tokens", 1, 0, "optim/trained_tokens: 0 at step 1 is no token; every weight of the batch is zero"),
        ("anything", 1.0, math.nan, "optim/anything: nan at step 1; lower learning_rate"),
        ("anything", 1.0, -math.inf, "optim/anything: -inf at step 1; lower learning_rate"),
    ],
)
def test_a_metric_beyond_its_bound_is_told_once(
    metric: str, fine: float, bad: float, message: str, told: pytest.LogCaptureFixture
) -> None:
    watches = Watches()
    watches.look(0, {f"optim/{metric}": fine, f"{metric}/mean": bad if math.isfinite(bad) else 0.0})
    assert said(told) == []
    for step in (1, 2):
        watches.look(step, {f"optim/{metric}": bad})
    assert len(told.records) == 1
    level, text = said(told)[0]
    assert level == "WARNING"
    assert text.startswith(message)
    Watches().look(1, {f"optim/{metric}": bad})
    assert len(told.records) == 2  # another run says it, too


@pytest.mark.row(118)
def test_a_sampler_that_agrees_with_the_learner_is_good_news(told: pytest.LogCaptureFixture) -> None:
    watches = Watches()
    for step in range(2):
        watches.look(step, {"kl_sampler_learner": 0.001})
    assert said(told) == [("INFO", "kl_sampler_learner: 0.001 at step 0 is below 0.01; sampler and learner agree")]


@pytest.mark.row(118)
def test_a_held_out_loss_that_rises_three_times_in_a_row_is_told_with_the_best_step(
    told: pytest.LogCaptureFixture,
) -> None:
    watches = Watches()
    for step, loss in enumerate([0.9, 0.5, 0.6, 0.7, 0.6, 0.65, 0.7]):
        watches.look(10 * step, {"test/nll": loss, "train/nll": float(step), "test/other": float(step)})
    assert said(told) == []
    watches.look(70, {"test/nll": 0.71})
    watches.look(80, {"test/nll": 0.8})
    assert said(told) == [
        (
            "WARNING",
            "test/nll: rose at 3 evaluations in a row, to 0.71 at step 70; it was lowest, 0.5, at step 10: take a "
            "checkpoint from there, fewer epochs, or more data",
        )
    ]


@pytest.mark.row(110, 118)
def test_a_run_that_is_taken_up_again_remembers_its_evaluations(told: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    watches = Watches()
    watches.recall([{"step": step, "test/nll": 0.1 * step, "train/nll": None} for step in range(3)])
    watches.look(3, {"test/nll": 0.9})
    assert "rose at 3 evaluations in a row, to 0.9 at step 3; it was lowest, 0, at step 0" in told.text


@pytest.mark.row(67, 118)
def test_an_unusual_plan_is_told_once_for_each_run(told: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        with Run(RunConfig(log_path=str(tmp_path / folder), model_name="Qwen/Qwen3-8B"), "test") as run:
            run.announce(100, 4e-4, {})
            assert said(told) == []
            for _ in range(2):
                run.announce(99, 5e-3, {})
        assert said(told) == [
            ("WARNING", "steps: 99 are fewer than 100; use a smaller batch_size, more epochs or more data"),
            (
                "WARNING",
                "learning_rate: 0.005 is more than 10 times off get_lr's 0.000472979; learning_rate=None takes what "
                "is recommended",
            ),
        ]
        told.clear()


def test_a_plan_for_a_name_that_only_the_service_knows_does_not_ask_the_hub(
    told: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(hub, "fetch", lambda repository, file: asked.append(repository))
    Watches().plan("my/llama", 1.0, 100)
    assert said(told) == []
    assert not asked
