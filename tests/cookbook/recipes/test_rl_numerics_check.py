"""Sampler against learner: what is reported, that bounds end the command, and any service by its URL."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinsmith
from tests.support.checkpoints import checkpoint
from tests.support.live_server import LLAMA, LiveServer
from tinsmith import TensorData, TrainingClient
from tinsmith.cookbook.recipes.rl_numerics_check import Checked, Config, main
from tinsmith.cookbook.rl.learning.examples import Example
from tinsmith.cookbook.runs.command import parse
from tinsmith.cookbook.runs.jsonl import read_rows

SMALL = ["batch_size=2", "group_size=2", "max_tokens=8", "long_tokens=160", "lora_rank=4", "learning_rate=1e-2"]
EXACT = ["max_kl=1e-6", "max_delta=1e-4"]
KINDS = ("short", "long", "base_short", "base_long")


def check(folder: Path, *arguments: str) -> list[dict[str, Any]]:
    main(parse(Config, [*SMALL, "max_steps=2", f"log_path={folder}/run", *arguments]))
    return read_rows(folder / "run" / "metrics.jsonl")


@pytest.mark.row(101, 103, 208)
def test_sampler_and_learner_agree_before_and_after_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = check(tmp_path, *EXACT)
    assert [row["step"] for row in rows] == [0, 1, 2]
    for row in rows:
        for kind in KINDS if row["step"] == 0 else KINDS[:2]:
            numbers = {name: row[f"check/{kind}/{name}"] for name in ("kl_k1", "kl_k2", "max_delta", "tokens")}
            assert abs(numbers["kl_k1"]) < 1e-6
            assert numbers["kl_k2"] < 1e-6
            # A difference of zero everywhere would be two names for one computation.
            assert 0.0 < numbers["max_delta"] < 1e-4
            assert numbers["tokens"] == 2 * 40 if "long" in kind else numbers["tokens"] > 4
    # It is another policy after every step, or the later checks would say nothing about adapters.
    assert rows[0]["optim/grad_norm"] > 0
    told = capsys.readouterr().out
    assert told.count("the worst token is ") == 8
    assert "sampler and learner agree: every KL is below 1e-06, every difference below 0.0001" in told
    page = (tmp_path / "run/transcripts/step-000002.html").read_text()
    assert "step 2, long: the worst token is" in page

    # A run that is finished is judged by what is on record, and by other bounds if they are given.
    assert check(tmp_path, *EXACT) == rows
    with pytest.raises(SystemExit) as ended:
        check(tmp_path, "max_delta=1e-9")
    assert ended.value.code == 1


@pytest.mark.row(101)
def test_a_learner_that_computes_something_else_is_found_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    forward = TrainingClient.forward

    def off_at_the_end(self: TrainingClient, data: Any, *args: Any) -> Any:
        future = forward(self, data, *args)
        for output, datum in zip(future.result().loss_fn_outputs, data, strict=True):
            # Only far behind the beginning, as a fault of positions would be.
            if datum.model_input.length > 150:
                logprobs = output["logprobs"].to_numpy().copy()
                logprobs[-1] -= 3.0
                output["logprobs"] = TensorData.from_numpy(logprobs)
        return future

    monkeypatch.setattr(TrainingClient, "forward", off_at_the_end)
    with pytest.raises(SystemExit) as ended:
        check(tmp_path)
    assert ended.value.code == 1
    printed = capsys.readouterr()
    lines = printed.err.splitlines()
    assert "rl_numerics_check: difference of long after step 0 is 3, expected at most max_delta=1" in lines
    assert "rl_numerics_check: KL (k1) of long after step 0 is 0.075, expected at most max_kl=0.01" in lines
    assert not any("short" in line for line in lines)
    assert "number 39 of sequence" in printed.out


def test_no_number_is_the_worst_difference() -> None:
    example = Example()
    q = [np.array([-1.0, -2.0]), np.array([-1.0, -1.0])]
    p = [np.array([-1.0, -5.0]), np.array([-1.0, np.nan])]
    checked = Checked([example, example], q, p)
    assert checked.worst() == (1, 1)
    assert np.isnan(checked.metrics()["max_delta"])


@pytest.mark.row(101)
def test_it_speaks_to_a_service_by_its_url_and_to_other_models(
    tmp_path: Path, live_server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINSMITH_API_KEY", live_server.key)
    rows = check(tmp_path, f"base_url={live_server.url}", f"model_name={LLAMA}", *EXACT)
    assert len(rows) == 3
    monkeypatch.setenv("TINSMITH_MODELS", f"{LLAMA}={checkpoint('llama')}")
    assert tinsmith.get_tokenizer(LLAMA) is not None
    assert json.loads((tmp_path / "run/config.json").read_text())["model_name"] == LLAMA
