"""The settings of supervised training: what reaches the optimizer, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cookbook.supervised.training import ROWS, config_for, embed
from tests.support.fakes.fake_service import FakeService
from tinsmith.cookbook.recipes import sl_loop
from tinsmith.cookbook.runs import Run, RunConfig
from tinsmith.cookbook.runs.command import parse
from tinsmith.cookbook.supervised.config import SupervisedConfig
from tinsmith.cookbook.supervised.train import train
from tinsmith.types.errors import UserError


@pytest.mark.row(66)
def test_the_optimizer_gets_its_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service = FakeService()
    embed(service, monkeypatch)
    config = config_for(
        tmp_path, max_steps=2, learning_rate=2e-3, lr_schedule="cosine", warmup_steps=1,
        adam_beta1=0.8, adam_beta2=0.99, adam_eps=1e-6, weight_decay=0.1, grad_clip_norm=1.5,
    )  # fmt: skip
    train(config, "test", rows=ROWS)
    (model,) = service.models.values()
    steps = [body["adam_params"] for _, kind, body in model.log if kind == "optim_step"]
    common = {"beta1": 0.8, "beta2": 0.99, "eps": 1e-6, "weight_decay": 0.1, "grad_clip_norm": 1.5}
    assert steps == [{"learning_rate": 1e-3, **common}, {"learning_rate": 2e-3, **common}]


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("epochs", 0, "at least 1"),
        ("max_length", 1, "at least 2"),
        ("held_out", 1.5, "a number of rows, or a share of them below 1.0"),
        ("warmup_steps", -1, "at least 0"),
        ("adam_beta1", 1.0, "0 or more and below 1"),
        ("adam_beta2", float("nan"), "0 or more and below 1"),
        ("weight_decay", -0.1, "at least 0"),
        ("weight_decay", float("nan"), "a finite number"),
        ("adam_eps", float("inf"), "a finite number"),
        ("held_out", float("nan"), "a number of rows, or a share of them below 1.0"),
    ],
)
def test_settings_out_of_range_are_refused(field: str, value: Any, expected: str) -> None:
    with pytest.raises(UserError, match=f"^{field}: got {value}, expected {expected}"):
        SupervisedConfig(**{field: value})


def test_a_warm_up_longer_than_the_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="warmup_steps: got 5, expected 0 to 4: the run has 5 steps"):
        train(config_for(tmp_path, warmup_steps=5), "test", rows=ROWS)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"epochs": 2}, "epochs: got 2, expected more: these are 6 steps, and the run in .* has done 7"),
        ({"epochs": 2, "max_steps": 6}, "max_steps: got 6, expected at least 7, which the run in .* has done"),
    ],
)
def test_a_run_that_has_done_more_names_the_setting_that_was_given(
    given: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    with Run(SupervisedConfig(log_path=str(tmp_path / "run"), **given), "test") as run:
        run.first_step = 7
        with pytest.raises(UserError, match=expected):
            run.is_finished(6)


@pytest.mark.row(103)
@pytest.mark.parametrize("config", [SupervisedConfig, sl_loop.Config], ids=["sl_basic", "sl_loop"])
def test_recipes_take_what_all_recipes_take(config: type[RunConfig]) -> None:
    asked = ("model_name=tiny", "learning_rate=1e-3", "batch_size=4", "log_path=runs/mine", "wandb_project=p")
    found = parse(config, asked)
    assert (found.model_name, found.learning_rate, found.batch_size) == ("tiny", 1e-3, 4)
    assert (found.log_path, found.wandb_project) == ("runs/mine", "p")
    # None: 128, or less of few rows (test_default_sizes.py); the loop to read has the course's number.
    assert config().batch_size == (128 if config is sl_loop.Config else None)
