"""Pairs as they are rendered: one prompt, the same room for both answers, and a token for the verdict."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tinsmith
from tests.support.examples import examples
from tinsmith.cookbook.model_info import renderer_of
from tinsmith.cookbook.preference.comparison import read_comparison
from tinsmith.cookbook.preference.pair_examples import PairExamples, cut_pair, render_pair
from tinsmith.cookbook.preference.reward_tokens import reward_tokens
from tinsmith.cookbook.preference.reward_trainer import bradley_terry
from tinsmith.cookbook.renderers import Renderer
from tinsmith.types.errors import UserError


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    tokenizer = tinsmith.get_tokenizer("tinsmith-tiny")
    return renderer_of("tinsmith-tiny", tokenizer, None)


ROW = {"prompt": "sort: hello", "chosen": "ehllo", "rejected": "ehlol"}


def test_only_what_the_assistant_answers_has_a_weight(renderer: Renderer) -> None:
    chosen, rejected = render_pair(read_comparison(ROW), renderer)
    said = [renderer.tokenizer.decode([t for t, w in zip(*side, strict=True) if w]) for side in (chosen, rejected)]
    assert [text.removesuffix("<|end|>") for text in said] == ["ehllo", "ehlol"]
    prompt = chosen.weights.index(1.0)
    assert chosen.tokens[:prompt] == rejected.tokens[:prompt]
    # An answer in the prompt is no answer of the pair.
    earlier = [{"role": "user", "content": "copy: a"}, {"role": "assistant", "content": "a"}]
    longer = {**ROW, "prompt": [*earlier, {"role": "user", "content": "sort: hello"}]}
    longer |= {name: [{"role": "assistant", "content": ROW[name]}] for name in ("chosen", "rejected")}
    assert sum(render_pair(read_comparison(longer), renderer).chosen.weights) == sum(chosen.weights)


@examples(40)
@given(st.text("abc", min_size=1, max_size=9), st.text("abc", min_size=1, max_size=9), st.integers(2, 30))
def test_both_answers_are_cut_behind_the_same_token(chosen: str, rejected: str, longest: int) -> None:
    if chosen == rejected:
        return
    tokenizer = tinsmith.get_tokenizer("tinsmith-tiny")
    renderer = renderer_of("tinsmith-tiny", tokenizer, None)
    whole = render_pair(read_comparison({"prompt": "x", "chosen": chosen, "rejected": rejected}), renderer)
    kept = cut_pair(whole, longest)
    if kept is None:
        # Nothing to compare: no token of an answer, or no difference.
        assert whole.chosen.tokens[:longest] == whole.rejected.tokens[:longest] or longest <= 4
        return
    for before, after in zip(whole, kept, strict=True):
        assert after.tokens == before.tokens[:longest]
        assert after.weights == before.weights[:longest]
        assert any(after.weights)
    assert kept.chosen.tokens != kept.rejected.tokens


def test_long_pairs_are_cut_and_hopeless_ones_left_out_with_a_word(
    renderer: Renderer, caplog: pytest.LogCaptureFixture
) -> None:
    examples = PairExamples(renderer, max_length=18)
    assert len(examples(ROW)) == 2
    assert (examples.truncated, examples.left_out) == (1, 0)
    assert "1 of 1 pairs so far were longer than 18 tokens" in caplog.text
    short = PairExamples(renderer, max_length=15)
    assert short(ROW) == []
    assert (short.truncated, short.left_out) == (0, 1)
    assert "of 1 of 1 pairs so far, 15 tokens leave no answer, or no difference" in caplog.text
    with pytest.raises(UserError, match="max_length: got 1, expected at least 2"):
        PairExamples(renderer, max_length=1)


def test_a_verdict_stands_behind_the_whole_conversation_and_in_the_context(renderer: Renderer) -> None:
    tokens = reward_tokens(renderer.tokenizer)
    whole = render_pair(read_comparison(ROW), renderer)
    examples = PairExamples(renderer, verdict=tokens.good)
    for plain, asked in zip(whole, examples(ROW), strict=True):
        assert asked.tokens == [*plain.tokens, tokens.good]
        assert asked.weights == [0.0] * len(plain.tokens) + [1.0]
    # A model that reads 20 tokens: the conversation, the verdict, and the one that a service samples behind it.
    examples.context_length = 20
    assert [len(asked.tokens) for asked in examples(ROW)] == [19, 19]


def test_the_loss_of_bradley_and_terry() -> None:
    random = Random(0)
    pairs = [[random.gauss(0, 2) for _ in range(4)] for _ in range(5)]
    logprobs = [torch.tensor([[0.0, 0.0], side]) for p in pairs for side in (p[:2], p[2:])]
    loss, told = bradley_terry(logprobs, center_coef=0.1)
    scores = np.array([[a - b, c - d] for a, b, c, d in pairs])
    margin = scores[:, 0] - scores[:, 1]
    expected = np.log1p(np.exp(-margin)).sum() + 0.1 * (scores.sum(axis=1) ** 2).sum()
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert told["accuracy:mean"] == pytest.approx((margin > 0).mean())
    assert told["margin:mean"] == pytest.approx(margin.mean(), rel=1e-5)
    # The scores of a pair may move together without a change of the first term.
    moved = [logprob + torch.tensor([3.0, 0.0]) for logprob in logprobs]
    assert float(bradley_terry(moved)[0]) == pytest.approx(float(bradley_terry(logprobs)[0]), rel=1e-5)


def test_two_tokens_that_a_model_never_says(renderer: Renderer) -> None:
    good, bad = reward_tokens(renderer.tokenizer)
    assert renderer.tokenizer.convert_ids_to_tokens([good, bad]) == ["<|reserved_0|>", "<|reserved_1|>"]
    # Nobody's text says them either.
    row = {**ROW, "chosen": "<|reserved_0|>"}
    assert good not in render_pair(read_comparison(row), renderer).chosen.tokens
