"""Forgetting: base and tuned model on a general set."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import tinsmith
from tests.cookbook.eval.tuned import context_of, service_in, tune
from tinsmith.cookbook.datasets import general
from tinsmith.cookbook.eval import EvalContext, NLLEvaluator
from tinsmith.cookbook.eval.forgetting import ForgettingEvaluator
from tinsmith.cookbook.runs.transcripts.transcript import Transcript
from tinsmith.cookbook.words import split_of, words
from tinsmith.types.errors import UserError

ROWS = general.rows(39)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tinsmith.ServiceClient]:
    with service_in(tmp_path_factory.mktemp("home")) as client:
        yield client


@pytest.mark.row(69)
def test_before_any_training_nothing_is_forgotten(service: tinsmith.ServiceClient) -> None:
    training = service.create_lora_training_client("tinsmith-tiny", rank=4, seed=0)
    context = context_of(service, training)
    found = ForgettingEvaluator(ROWS, max_tokens=64)(context)
    # The sampler's logprobs and those of a forward pass are computed apart.
    assert found["forgetting/general/base_nll"] == pytest.approx(NLLEvaluator(ROWS)(context)["test/nll"], rel=1e-3)
    assert found["forgetting/general/nll_rise"] == pytest.approx(0.0, abs=1e-4)
    assert found["forgetting/general/accuracy_drop"] == 0.0
    assert found["forgetting/general/base_accuracy"] >= 0.95


@pytest.mark.slow
@pytest.mark.row(69)
def test_what_tuning_cost_is_measured_against_the_base_which_is_asked_once(
    service: tinsmith.ServiceClient, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluator = ForgettingEvaluator(ROWS, "letters", max_tokens=64)
    training = tune(service)
    with Transcript(tmp_path, 12, "forgetting") as page:
        context = context_of(service, training)
        context.transcript = page
        found = evaluator(context)
    assert found["forgetting/letters/nll_rise"] > 0.05
    assert found["forgetting/letters/accuracy_drop"] >= 0.1
    assert found["forgetting/letters/accuracy_drop"] == pytest.approx(
        found["forgetting/letters/base_accuracy"] - found["forgetting/letters/tuned_accuracy"]
    )
    (written,) = tmp_path.rglob("step-000012.html")
    assert "letters: " in written.read_text()

    def base_again(self: EvalContext) -> tinsmith.SamplingClient:
        raise AssertionError("the base model does not change")

    monkeypatch.setattr(EvalContext, "base_client", property(base_again))
    assert evaluator(context_of(service, training)) == pytest.approx(found, rel=1e-5)


@pytest.mark.row(69)
def test_without_a_grader_only_the_loss_is_measured_and_texts_will_do(service: tinsmith.ServiceClient) -> None:
    found = ForgettingEvaluator([{"text": "The fox went to the farm."}], grader=None)(context_of(service))
    assert sorted(found) == [f"forgetting/general/{name}" for name in ("base_nll", "nll_rise", "tuned_nll")]
    assert 0.0 < found["forgetting/general/base_nll"] < 5.0


@pytest.mark.row(69)
@pytest.mark.parametrize("trained", [False, True])
def test_a_row_longer_than_the_model_reads_is_cut(service: tinsmith.ServiceClient, trained: bool) -> None:
    training = service.create_lora_training_client("tinsmith-tiny", rank=4, seed=0) if trained else None
    context = context_of(service, training)
    found = ForgettingEvaluator([{"text": "The fox. " * 200}], grader=None)(context)
    assert context.context_length == 1024
    assert 0.0 < found["forgetting/general/base_nll"] < 5.0


def test_what_cannot_be_asked_is_refused_at_the_door() -> None:
    with pytest.raises(UserError, match="rows: got \\[\\], expected at least one row"):
        ForgettingEvaluator([])
    with pytest.raises(UserError, match=r"rows\[1\]: got \{'text': 'x'\}"):
        ForgettingEvaluator([ROWS[0], {"text": "x"}])


def test_the_general_set_is_repeatable_and_made_of_words_that_no_training_set_holds() -> None:
    assert general.rows(40, seed=3) == general.rows(40, seed=3) != general.rows(40, seed=4)
    rows = general.rows(13 * 8)
    assert len({row["skill"] for row in rows}) == 13
    assert all(row["messages"][-1]["role"] == "assistant" for row in rows)
    trained = {word for word in words("train") if len(word) > 2}
    for row in rows:
        if row["skill"] in ("copy", "reverse", "drop_first", "upper", "spell", "count"):
            asked = row["messages"][0]["content"].rstrip("?.").split()
            assert any(split_of(word) == "held_out" and word not in trained for word in asked)
