"""The supervised trainer: its order of operations, its rows, evaluations, schedules, and what it starts from."""

from __future__ import annotations

import json
import logging
import math
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinsmith
from tests.cookbook.supervised.training import ROWS, config_for, embed, metrics_of
from tests.support.fakes.fake_service import Answer, FakeService, reply
from tinsmith.cookbook import notices
from tinsmith.cookbook.datasets import pig_latin
from tinsmith.cookbook.eval import AccuracyEvaluator, EvalContext, EvaluationError
from tinsmith.cookbook.supervised import Batches
from tinsmith.cookbook.supervised.config import SupervisedConfig
from tinsmith.cookbook.supervised.train import TrainResult, train
from tinsmith.cookbook.utils import get_lr
from tinsmith.types.errors import TinsmithError, UserError


@pytest.fixture(autouse=True)
def _fresh_notices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "_said", set())


@pytest.fixture(scope="module")
def _home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def home(_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One data folder for the runs of this file, so that the embedded service starts once."""
    monkeypatch.setenv("TINSMITH_HOME", str(_home))
    return _home


def values_of(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows without the wall clock, which is another one every time."""
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows]


def adapter_of(result: TrainResult, folder: Path) -> dict[str, np.ndarray[Any, Any]]:
    from safetensors.numpy import load_file

    path = tinsmith.RestClient().download_checkpoint(result.sampler_path, folder).result()
    return load_file(path / "adapter_model.safetensors")


@pytest.mark.row(118)
def test_rows_that_the_model_cannot_read_whole_cost_no_run(home: Path, tmp_path: Path) -> None:
    long = {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "b" * 2000}]}
    config = config_for(tmp_path, batch_size=6, max_steps=2, held_out=0.5, samples=0, seed=1)
    train(config, "test", rows=[*ROWS[:6], *[long] * 6])
    first, second, last = metrics_of(config)
    # Long ones are among those that are held out, too.
    assert 0 < first["train/truncated"] == second["train/truncated"] < 6
    assert first["train/tokens"] > first["train/truncated"] * 1024
    assert last["test/nll"] > 0


def assert_same(given: dict[str, np.ndarray[Any, Any]], expected: dict[str, np.ndarray[Any, Any]]) -> None:
    assert given.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(given[name], value, err_msg=name)


# -- the order of operations -------------------------------------------------------------------------------------------


class OneAhead(FakeService):
    """A service that tells the result of a batch only when the next batch, if there is one, has been submitted."""

    def __init__(self, batches: int) -> None:
        super().__init__()
        self.batches = batches
        self.submitted: dict[str, int] = {}
        self.deadline = time.monotonic() + 60

    def _accept(self, model_id: str, seq: int, kind: str, body: Any) -> Answer:
        answer = super()._accept(model_id, seq, kind, body)
        if kind == "forward_backward":
            self.submitted.setdefault(json.loads(answer[1])["request_id"], len(self.submitted))
        return answer

    async def _retrieve_future(self, body: dict[str, Any]) -> Answer:
        number = self.submitted.get(body["request_id"])
        answer = await super()._retrieve_future(body)
        if number is not None and len(self.submitted) < min(number + 2, self.batches):
            if time.monotonic() > self.deadline:
                return reply({"error": f"batch {number + 1} was not submitted before the result of {number}"})
            return reply({"type": "try_again", "request_id": body["request_id"], "queue_state": "active"}, 408)
        return answer


@pytest.mark.row(63)
def test_a_batch_is_submitted_before_the_result_of_the_one_before_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = OneAhead(batches=5)
    embed(service, monkeypatch)
    config = config_for(tmp_path)
    train(config, "test", rows=ROWS)
    assert [row["step"] for row in metrics_of(config)] == [0, 1, 2, 3, 4, 5]


@pytest.mark.row(109)
def test_states_are_saved_between_a_batch_and_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service = FakeService()
    embed(service, monkeypatch)
    config = config_for(tmp_path, save_every=2, rolling_save_every=1)
    train(config, "test", rows=ROWS)
    (model,) = service.models.values()
    batch = ["forward_backward", "optim_step"]
    kept, rolling = ["save_weights", "save_weights_for_sampler"], ["save_weights"]
    assert [kind for _, kind, _ in model.log] == [
        *batch, *rolling, *batch, *kept, *batch, *rolling, *batch, *kept, *batch, *kept,
    ]  # fmt: skip


# -- rows --------------------------------------------------------------------------------------------------------------


@pytest.mark.row(62, 63, 111, 112)
def test_a_row_holds_the_batch_and_the_evaluation_before_it(tmp_path: Path, home: Path) -> None:
    config = config_for(tmp_path, eval_every=2, held_out=6, max_steps=4, lr_schedule="linear", learning_rate=1e-3)

    def of_mine(context: EvalContext) -> Mapping[str, float]:
        return {"eval/steps": context.step}

    result = train(config, "test", rows=ROWS, evaluators=[of_mine])
    rows = metrics_of(config)
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4]
    assert [row.get("eval/steps") for row in rows] == [0, None, 2, None, 4]
    assert [row["learning_rate"] for row in rows[:-1]] == pytest.approx([1e-3, 7.5e-4, 5e-4, 2.5e-4])
    assert rows[0]["test/nll"] > rows[2]["test/nll"] > rows[4]["test/nll"]
    assert [row["epoch"] for row in rows[:-1]] == [0, 0, 0, 0]
    for row in rows[:-1]:
        assert row["train/examples"] == 8
        assert 0 < row["train/nll"] < 10
        assert 0 < row["train/trained_tokens"] < row["train/tokens"]
    assert {k: v for k, v in rows[4].items() if k != "step"} == result.metrics
    assert result.steps == 4

    again = train(config, "test", rows=ROWS, evaluators=[of_mine])
    assert again == result
    assert metrics_of(config) == rows


@pytest.mark.row(62)
def test_the_loss_of_a_row_is_that_of_the_logprobs_of_its_batch(tmp_path: Path, home: Path) -> None:
    config = config_for(tmp_path, max_steps=1)
    train(config, "test", rows=ROWS)
    (row, _) = metrics_of(config)

    service = tinsmith.ServiceClient()
    client = service.create_lora_training_client("tinsmith-tiny", rank=8, seed=config.seed)
    tokenizer = client.get_tokenizer()
    from tinsmith.cookbook.renderers import get_renderer

    batch = Batches(ROWS, get_renderer("tinsmith_tiny", tokenizer), tokenizer, batch_size=8, seed=config.seed).get(0)
    outputs = client.forward(batch.datums, "cross_entropy").result().loss_fn_outputs
    loss = weight = 0.0
    for datum, output in zip(batch.datums, outputs, strict=True):
        weights = datum.loss_fn_inputs["weights"].to_numpy()
        loss -= float(output["logprobs"].to_numpy() @ weights)
        weight += float(weights.sum())
    assert row["train/nll"] == pytest.approx(loss / weight, rel=1e-5)
    said = "".join(row["messages"][1]["content"] for row in batch.rows)
    assert row["train/bits_per_byte"] == pytest.approx(loss / math.log(2) / len(said.encode()), rel=1e-5)
    assert row["train/trained_tokens"] == weight


@pytest.mark.row(118)
def test_cut_examples_and_ones_that_teach_nothing_are_counted(
    tmp_path: Path, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"messages": [{"role": "user", "content": "q" * 30}, {"role": "assistant", "content": "a" * n}]}
            for n in (1, 1, 20, 60)]  # fmt: skip
    rows.append({"messages": [{"role": "user", "content": "q" * 90}, {"role": "assistant", "content": "a"}]})
    config = config_for(tmp_path, batch_size=5, max_steps=1, max_length=60)
    with caplog.at_level(logging.WARNING, "tinsmith.cookbook"):
        train(config, "test", rows=rows)
    (row, _) = metrics_of(config)
    assert (row["train/examples"], row["train/truncated"], row["train/unlearnable"]) == (5, 2, 1)
    assert "2 of 5 examples so far were longer than 60 tokens" in caplog.text
    assert "1 of 5 examples so far have weight 0 everywhere" in caplog.text


@pytest.mark.row(65, 66, 67)
def test_rows_of_the_form_of_no_robots_train_and_few_steps_are_warned_of(
    tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    lines = []
    for number in range(35):
        messages = [
            {"role": "system", "content": "You are terse."},
            {"role": "user", "content": f"count to {number}"},
            {"role": "assistant", "content": f"{number}."},
        ]
        row = {"prompt": f"count to {number}", "prompt_id": str(number), "messages": messages, "category": "Coding"}
        lines.append(json.dumps(row))
    path = tmp_path / "no_robots.jsonl"
    path.write_text("\n".join(lines) + "\n")
    config = config_for(tmp_path, data=str(path), max_steps=None, epochs=2, held_out=0.1, learning_rate=None)
    with caplog.at_level(logging.WARNING, "tinsmith.cookbook"):
        result = train(config, "test")
    assert result.steps == 2 * (31 // 8)
    told = capsys.readouterr().out
    for fact in (
        r"rows +31",
        "left out of each epoch +7",
        "held out +4",
        "steps +6",
        "rate +0.004",
        "renderer +tinsmith_tiny",
    ):
        assert re.search(fact, told), fact
    assert "steps: 6 are fewer than 100" in caplog.text
    losses = [row["test/nll"] for row in metrics_of(config) if "test/nll" in row]
    assert len(losses) == 1
    assert math.isfinite(losses[0])
    assert get_lr("Qwen/Qwen3-8B") == pytest.approx(4.729791e-4, rel=1e-6)


@pytest.mark.row(63, 113)
def test_pages_show_training_examples_sampled_answers_and_grades(tmp_path: Path, home: Path) -> None:
    rows = [*pig_latin.rows(["hello<b>"]), *ROWS[:15]]
    grades = AccuracyEvaluator(rows[:2], name="pig_latin", max_tokens=8)
    config = config_for(tmp_path, batch_size=12, max_steps=3, eval_every=2, held_out=4, max_tokens=8)
    train(config, "test", rows=rows, evaluators=[grades])
    folder = tmp_path / "run" / "transcripts"
    assert sorted(page.name for page in folder.iterdir()) == [
        "answers.json", "index.html", "step-000000.html", "step-000002.html", "step-000003.html",
    ]  # fmt: skip
    first = (folder / "step-000000.html").read_text()
    assert "Training examples: 3 of 12" in first
    assert "Sampled answers" in first
    assert "in the data: " in first
    assert "pig_latin: 0.0% of 2" in first
    assert "grade 0" in first
    assert "weight 1 · logprob -" in first
    assert "hello&lt;b&gt;" in first
    assert "hello<b>" not in first
    assert "Training examples" not in (folder / "step-000003.html").read_text()


@pytest.mark.row(113)
def test_a_step_with_nothing_to_show_has_no_page(tmp_path: Path, home: Path) -> None:
    train(config_for(tmp_path, max_steps=2, eval_every=1), "test", rows=ROWS)
    pages = sorted(page.name for page in (tmp_path / "run" / "transcripts").glob("step-*"))
    assert pages == ["step-000000.html", "step-000001.html"]


# -- evaluators that fail ----------------------------------------------------------------------------------------------


@pytest.mark.row(110, 112)
def test_a_failed_evaluation_loses_no_step_and_the_same_call_carries_on(tmp_path: Path, home: Path) -> None:
    broken = True

    def of_mine(context: EvalContext) -> Mapping[str, float]:
        if broken and context.step == 3:
            raise RuntimeError("the judge does not answer")
        return {"eval/steps": context.step}

    whole = config_for(tmp_path, log_path=str(tmp_path / "whole"), eval_every=3)
    broken = False
    expected = train(whole, "test", rows=ROWS, evaluators=[of_mine])
    broken = True
    config = config_for(tmp_path, eval_every=3)
    with pytest.raises(EvaluationError, match="evaluator of_mine, after 3 steps: RuntimeError: the judge does not"):
        train(config, "test", rows=ROWS, evaluators=[of_mine])
    assert [row["step"] for row in metrics_of(config)] == [0, 1, 2]
    first = metrics_of(config)
    broken = False
    result = train(config, "test", rows=ROWS, evaluators=[of_mine])
    assert metrics_of(config)[:3] == first  # not even the wall clock has changed: they were not done anew
    assert values_of(metrics_of(config)) == values_of(metrics_of(whole))
    assert_same(adapter_of(result, tmp_path / "a"), adapter_of(expected, tmp_path / "b"))


# -- longer runs, other beginnings -------------------------------------------------------------------------------------


@pytest.mark.row(110)
def test_a_finished_run_can_be_made_longer_and_equals_a_long_one(tmp_path: Path, home: Path) -> None:
    fields = {"lr_schedule": "constant", "warmup_steps": 2, "held_out": 4, "eval_every": 2}
    long = config_for(tmp_path, max_steps=6, log_path=str(tmp_path / "long"), **fields)
    train(long, "test", rows=ROWS)
    train(config_for(tmp_path, max_steps=3, **fields), "test", rows=ROWS)
    longer = config_for(tmp_path, max_steps=6, **fields)
    train(longer, "test", rows=ROWS)
    assert values_of(metrics_of(longer)) == values_of(metrics_of(long))
    with pytest.raises(UserError, match="max_steps: got 5, expected at least 6"):
        train(config_for(tmp_path, max_steps=5, **fields), "test", rows=ROWS)


def test_a_finished_run_whose_metrics_somebody_removed_still_tells_where_its_weights_are(
    tmp_path: Path, home: Path
) -> None:
    config = config_for(tmp_path, max_steps=1)
    done = train(config, "test", rows=ROWS)
    (done.path / "metrics.jsonl").unlink()
    again = train(config, "test", rows=ROWS)
    assert again.metrics == {}
    assert (again.state_path, again.sampler_path) == (done.state_path, done.sampler_path)


def test_a_schedule_that_spans_more_steps_now_goes_on_by_the_new_plan_and_says_so(
    tmp_path: Path, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fields = {"lr_schedule": "linear", "learning_rate": 1e-3}
    train(config_for(tmp_path, max_steps=2, **fields), "test", rows=ROWS)
    longer = config_for(tmp_path, max_steps=4, **fields)
    with caplog.at_level(logging.WARNING, "tinsmith.cookbook"):
        train(longer, "test", rows=ROWS)
    assert (
        "lr_schedule: linear now spans 4 steps: the rate of step 1 was 0.0005 and would have been 0.00075"
        in caplog.text
    )
    rates = [row["learning_rate"] for row in metrics_of(longer)[:-1]]
    assert rates == pytest.approx([1e-3, 5e-4, 5e-4, 2.5e-4])


def test_training_begins_with_saved_weights_and_a_fresh_optimizer(tmp_path: Path, home: Path) -> None:
    first = train(config_for(tmp_path, held_out=6, log_path=str(tmp_path / "first")), "test", rows=ROWS)
    config = config_for(tmp_path, held_out=6, eval_every=5, load_checkpoint_path=first.state_path)
    train(config, "test", rows=ROWS)
    rows = metrics_of(config)
    assert rows[0]["test/nll"] == pytest.approx(first.metrics["test/nll"], abs=1e-6)
    assert rows[0]["optim/adam_step"] == 1
    lost = config_for(tmp_path, log_path=str(tmp_path / "lost"), load_checkpoint_path="tinker://no-such-run/weights/1")
    with pytest.raises(TinsmithError, match="no-such-run"):
        train(lost, "test", rows=ROWS)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.row(64)
def test_the_default_learns_pig_latin(tmp_path: Path, home: Path) -> None:
    words = pig_latin.draw_words("held_out", 200)
    evaluator = AccuracyEvaluator(pig_latin.rows(words), name="pig_latin", max_tokens=18)
    config = SupervisedConfig(log_path=str(tmp_path / "run"), save_every=0, eval_every=100)
    result = train(config, "test", evaluators=[evaluator])
    rows = metrics_of(config)
    assert rows[0]["eval/pig_latin"] < 0.05
    assert result.metrics["eval/pig_latin"] >= 0.95
