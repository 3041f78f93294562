"""Conversations and texts to datums: shifting, truncation, losses."""

from __future__ import annotations

import logging
import math

import numpy as np
import pytest

from tests.cookbook.renderers.formats import byte_tokenizer
from tests.support.checkpoints import make_tokenizer
from tinsmith.cookbook import notices
from tinsmith.cookbook.renderers import get_renderer
from tinsmith.cookbook.supervised import (
    compute_mean_nll,
    conversation_to_datum,
    datum_from_tokens_weights,
    row_to_datums,
    text_to_datum,
)
from tinsmith.types.errors import UserError
from tinsmith.types.tensor import TensorData

QUESTION = {"role": "user", "content": "2+2?"}
ANSWER = {"role": "assistant", "content": "4"}


@pytest.fixture(autouse=True)
def _fresh_notices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "_said", set())


@pytest.mark.row(34, 59)
def test_a_conversation_becomes_a_shifted_datum() -> None:
    renderer = get_renderer("llama3", byte_tokenizer("llama", "llama3"))
    tokens, weights = renderer.build_supervised_example([QUESTION, ANSWER])
    datum = conversation_to_datum([QUESTION, ANSWER], renderer, max_length=None)
    assert datum.model_input.to_ints() == tokens[:-1]
    assert datum.loss_fn_inputs["target_tokens"].tolist() == tokens[1:]
    assert datum.loss_fn_inputs["weights"].tolist() == weights[1:]
    assert sum(weights) == 2  # "4" and the end marker


def test_a_conversation_keeps_its_tools() -> None:
    tokenizer = byte_tokenizer("qwen3", "qwen3")
    renderer = get_renderer("qwen3_instruct", tokenizer)
    row = {"messages": [QUESTION, ANSWER], "tools": [{"type": "function", "function": {"name": "add"}}]}
    (expected,) = row_to_datums(row, renderer, tokenizer)
    datum = conversation_to_datum(row["messages"], renderer, tools=row["tools"])
    assert datum.model_input.to_ints() == expected.model_input.to_ints()
    assert datum.model_input.length > conversation_to_datum(row["messages"], renderer).model_input.length


@pytest.mark.row(118)
def test_long_conversations_are_cut_and_said_so_once(caplog: pytest.LogCaptureFixture) -> None:
    renderer = get_renderer("llama3", byte_tokenizer("llama", "llama3"))
    long = [QUESTION, {"role": "assistant", "content": "4" * 50}]
    with caplog.at_level(logging.WARNING, "tinsmith.cookbook"):
        for _ in range(3):
            datum = conversation_to_datum(long, renderer, 40, "last_assistant_message")
            assert datum.model_input.length == 39
    assert [r.message.split(";")[0] for r in caplog.records] == [
        "max_length: an example of 78 tokens was cut to 40",
    ]
    caplog.clear()
    with caplog.at_level(logging.WARNING, "tinsmith.cookbook"):
        conversation_to_datum(long, renderer, 10)
        conversation_to_datum(long, renderer, 9)
    assert sum("weight 0 everywhere" in r.message for r in caplog.records) == 1


def test_bad_lengths_are_refused() -> None:
    with pytest.raises(UserError, match="weights: got '1 values', expected 2, one per token"):
        datum_from_tokens_weights([1, 2], [1.0])
    with pytest.raises(UserError, match="max_length: got 1, expected at least 2"):
        datum_from_tokens_weights([1, 2], [1.0, 1.0], 1)
    with pytest.raises(UserError, match="at least two tokens"):
        datum_from_tokens_weights([1], [1.0])


@pytest.mark.row(8)
def test_raw_text_is_learned_whole_after_the_tokenizers_beginning() -> None:
    tokenizer = make_tokenizer("llama")
    datum = text_to_datum("hi <|eot_id|>", tokenizer)
    tokens = [*datum.model_input.to_ints(), datum.loss_fn_inputs["target_tokens"].tolist()[-1]]
    assert tokenizer.decode(tokens) == "hi <|eot_id|>"
    assert tokenizer.convert_tokens_to_ids("<|eot_id|>") not in tokens
    assert set(datum.loss_fn_inputs["weights"].tolist()) == {1.0}
    from tokenizers.processors import TemplateProcessing

    bos = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", bos)]
    )
    assert text_to_datum("hi", tokenizer).model_input.to_ints() == [
        bos,
        *tokenizer.encode("h", add_special_tokens=False),
    ]


@pytest.mark.row(62)
def test_nll_is_the_weighted_mean_and_ignores_what_has_no_weight() -> None:
    logprobs = [np.array([-1.0, -2.0, -math.inf]), TensorData.from_numpy(np.array([-4.0], dtype=np.float32))]
    weights = [np.array([1.0, 0.5, 0.0]), np.array([2.0])]
    assert compute_mean_nll(logprobs, weights) == pytest.approx((1 + 1 + 8) / 3.5)
    assert math.isnan(compute_mean_nll([np.array([-1.0])], [np.array([0.0])]))
