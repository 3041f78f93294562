"""Evaluation: what an evaluator sees, held-out loss against a sum of one's own, graded answers, faults by name."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import tinsmith
from tinsmith.cookbook.datasets import pig_latin
from tinsmith.cookbook.eval import (
    AccuracyEvaluator,
    EvalContext,
    EvaluationError,
    NLLEvaluator,
    exact_match,
    run_evaluators,
)
from tinsmith.cookbook.renderers import get_renderer
from tinsmith.cookbook.supervised import conversation_to_datum
from tinsmith.types.errors import UserError

WORDS = ("hello", "apple", "ferry", "a", "straße", "oak")
ROWS = pig_latin.rows(WORDS)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tinsmith.ServiceClient]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINSMITH_HOME", str(tmp_path_factory.mktemp("home")))
        with tinsmith.ServiceClient() as client:
            yield client


@pytest.fixture(scope="module")
def training(service: tinsmith.ServiceClient) -> tinsmith.TrainingClient:
    """An adapter that has learned the rows."""
    client = service.create_lora_training_client("tinsmith-tiny", rank=8, seed=0)
    renderer = get_renderer("tinsmith_tiny", client.get_tokenizer())
    data = [conversation_to_datum(row["messages"], renderer) for row in ROWS]
    for _ in range(12):
        client.forward_backward(data, "cross_entropy")
        client.optim_step(tinsmith.AdamParams(learning_rate=1e-2)).result()
    return client


def context_of(service: tinsmith.ServiceClient, training: tinsmith.TrainingClient | None = None) -> EvalContext:
    tokenizer = service.get_tokenizer("tinsmith-tiny")
    renderer = get_renderer("tinsmith_tiny", tokenizer)
    return EvalContext(service, "tinsmith-tiny", renderer, tokenizer, step=12, training_client=training)


@pytest.mark.row(63, 112)
def test_the_loss_on_held_out_rows_is_the_sum_over_their_tokens(
    service: tinsmith.ServiceClient, training: tinsmith.TrainingClient
) -> None:
    context = context_of(service, training)
    found = NLLEvaluator(ROWS)(context)

    data = [conversation_to_datum(row["messages"], context.renderer) for row in ROWS]
    outputs = training.forward(data, "cross_entropy").result().loss_fn_outputs
    weights = [datum.loss_fn_inputs["weights"].to_numpy() for datum in data]
    loss = -sum(float(o["logprobs"].to_numpy() @ w) for o, w in zip(outputs, weights, strict=True))
    answers = "".join(row["messages"][1]["content"] for row in ROWS)
    assert found == {
        "test/nll": pytest.approx(loss / sum(float(w.sum()) for w in weights), rel=1e-5),
        "test/bits_per_byte": pytest.approx(loss / math.log(2) / len(answers.encode()), rel=1e-5),
    }
    assert NLLEvaluator(ROWS, "mine")(context)["mine/nll"] == found["test/nll"]


@pytest.mark.row(63, 112)
def test_nothing_is_learned_from_held_out_rows(
    service: tinsmith.ServiceClient, training: tinsmith.TrainingClient
) -> None:
    evaluator = NLLEvaluator(ROWS)
    first = evaluator(context_of(service, training))
    training.optim_step(tinsmith.AdamParams(learning_rate=0.0)).result()
    assert evaluator(context_of(service, training)) == first


def test_a_loss_needs_rows_with_a_token_that_counts_and_a_training_client(
    service: tinsmith.ServiceClient, training: tinsmith.TrainingClient
) -> None:
    with pytest.raises(UserError, match="rows: got \\[\\], expected at least one row"):
        NLLEvaluator([])
    with pytest.raises(UserError, match="training_client: got None"):
        NLLEvaluator(ROWS)(context_of(service))
    cut = NLLEvaluator(ROWS, max_length=3)
    with pytest.raises(UserError, match="test rows: got 'weight 0 everywhere'"):
        cut(context_of(service, training))


@pytest.mark.row(63, 112)
def test_answers_are_graded_and_an_evaluation_done_again_gives_the_same(
    service: tinsmith.ServiceClient, training: tinsmith.TrainingClient
) -> None:
    context = context_of(service, training)
    evaluator = AccuracyEvaluator(ROWS, name="pig_latin", max_tokens=20)
    tuned = evaluator(context)["eval/pig_latin"]
    base = evaluator(context_of(service))["eval/pig_latin"]
    assert base <= 1 / len(ROWS) < tuned
    assert evaluator(context_of(service, training)) == {"eval/pig_latin": tuned}

    asked = [row["messages"][:1] for row in ROWS] * 4
    drawn = context.answers(asked, max_tokens=12, temperature=1.5)
    assert context_of(service, training).answers(asked, max_tokens=12, temperature=1.5) == drawn
    assert context.answers(asked, max_tokens=12, temperature=1.5, seed=1000) != drawn
    # Equal questions get answers of their own.
    assert len({drawn[i] for i in range(0, len(drawn), len(WORDS))}) > 1


def test_a_grader_sees_the_row_and_the_answer(
    service: tinsmith.ServiceClient, training: tinsmith.TrainingClient
) -> None:
    seen: list[tuple[Any, str]] = []

    def half(row: Any, answer: str) -> float:
        seen.append((row["number"], answer))
        return 0.5

    rows = [{"messages": row["messages"][:1], "number": number} for number, row in enumerate(ROWS)]
    assert AccuracyEvaluator(rows, half, max_tokens=4)(context_of(service, training)) == {"eval/accuracy": 0.5}
    assert [number for number, _ in seen] == list(range(len(ROWS)))
    assert exact_match(ROWS[0], " ellohay\n")
    assert not exact_match(ROWS[0], "ellohay.")


@pytest.mark.parametrize("grade", [float("nan"), 5, -0.1, None, "good"])
def test_a_grade_that_is_none_is_refused(service: tinsmith.ServiceClient, grade: Any) -> None:
    evaluator = AccuracyEvaluator(ROWS[:1], lambda row, answer: grade, max_tokens=2)
    with pytest.raises(UserError, match=f"grader: got {grade!r}, expected a number from 0"):
        evaluator(context_of(service))


def test_questions_that_are_none_are_refused() -> None:
    with pytest.raises(UserError, match="questions: got \\[\\], expected at least one row"):
        AccuracyEvaluator([])
    with pytest.raises(UserError, match=r"questions\[1\]: got .*, expected a row with \"messages\""):
        AccuracyEvaluator([ROWS[0], {"text": "hello"}])
    with pytest.raises(UserError, match=r"questions\[0\].messages: got \['hi'\], expected objects"):
        AccuracyEvaluator([{"messages": ["hi"]}])
    with pytest.raises(UserError, match=r"questions\[0\].messages: got .*, expected a question before the answer"):
        AccuracyEvaluator([{"messages": [{"role": "assistant", "content": "hi"}]}])


@pytest.mark.row(63, 112)
def test_an_evaluator_of_ones_own_is_three_lines(
    service: tinsmith.ServiceClient, training: tinsmith.TrainingClient
) -> None:
    def answer_length(context: EvalContext) -> dict[str, float]:
        answers = context.answers([row["messages"][:1] for row in ROWS], max_tokens=20)
        return {"eval/answer_length": float(np.mean([len(answer) for answer in answers]))}

    found = run_evaluators([NLLEvaluator(ROWS), answer_length], context_of(service, training))
    assert set(found) == {"test/nll", "test/bits_per_byte", "eval/answer_length"}
    assert 2 < found["eval/answer_length"] < 12
    assert all(type(value) is float for value in found.values())


@pytest.mark.row(112)
def test_an_evaluator_that_raises_is_named_and_its_traceback_logged(
    service: tinsmith.ServiceClient, caplog: pytest.LogCaptureFixture
) -> None:
    def of_mine(context: EvalContext) -> dict[str, float]:
        return {"eval/mine": 1 / (context.step - 12)}

    with (
        caplog.at_level(logging.ERROR, "tinsmith.cookbook"),
        pytest.raises(EvaluationError, match="evaluator of_mine, after 12 steps: ZeroDivisionError") as raised,
    ):
        run_evaluators([of_mine], context_of(service))
    assert isinstance(raised.value.__cause__, ZeroDivisionError)
    assert "context.step - 12" in caplog.text


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        (0.5, r"evaluator bad: got 0.5, expected names and numbers"),
        ({"eval/mine": "high"}, r"evaluator bad: eval/mine: got 'high', expected a number"),
        ({"eval/mine": "0.5"}, r"evaluator bad: eval/mine: got '0.5', expected a number"),
        ({"eval/mine": 10**400}, r"evaluator bad: eval/mine: got 10+\.*, expected a number"),
        (
            {"train/nll": 0.5},
            r"evaluator bad: name: got 'train/nll', expected a text that is none of the training loop",
        ),
        ({"epoch": 0.5}, r"evaluator bad: name: got 'epoch', expected a text that is none of the training loop"),
        ({"learning_rate": 0.5}, r"evaluator bad: name: got 'learning_rate', expected a text that is none"),
        ({"eval/first": 0.5}, r"evaluator bad: name: got 'eval/first', expected one that no other evaluator gives"),
    ],
)
def test_numbers_that_a_row_cannot_hold_are_refused(
    metrics: Any, expected: str, service: tinsmith.ServiceClient
) -> None:
    def bad(context: EvalContext) -> Any:
        return metrics

    def first(context: EvalContext) -> dict[str, float]:
        return {"eval/first": 1.0}

    with pytest.raises(UserError, match=expected):
        run_evaluators([first, bad], context_of(service))


def test_names_may_begin_like_those_of_the_training_loop(service: tinsmith.ServiceClient) -> None:
    found = {"step_accuracy": 1.0, "epochs/seen": float("nan")}
    given = run_evaluators([lambda context: found], context_of(service))
    assert list(given) == list(found)
    assert math.isnan(given["epochs/seen"])
