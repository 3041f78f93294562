"""What the embedded model is trained on, and above all what it is not."""

import re
from collections import Counter
from itertools import islice
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from tinsmith import models
from tinsmith.cookbook.words import split_of
from tiny import mixture, strings, sums
from tiny.example import Example, letters
from tiny.render import prompt_and_answer, render
from tiny.tokenizer import CONTEXT
from tiny.train import Plan, pool_batches

SEEDS = st.integers(0, 2**32)


def words_of(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


@given(SEEDS)
def test_no_answer_is_pig_latin_of_a_word_before_it(seed: int) -> None:
    for example in islice(mixture.stream(str(seed)), 20):
        before: set[str] = set()
        for message in example.messages:
            content = str(message["content"])
            if message["role"] == "assistant":
                assert not {word[1:] + word[0] + "ay" for word in before} & words_of(content)
            before |= words_of(content)


def test_pig_latin_is_noticed_when_it_is_there() -> None:
    shown = ({"role": "user", "content": "hello"}, {"role": "assistant", "content": "\\boxed{Ellohay}"})
    assert mixture.shows_pig_latin(Example("copy", shown))
    assert mixture.shows_pig_latin(Example("text", text="apple is ppleaay"))
    assert not mixture.shows_pig_latin(Example("copy", ({"role": "user", "content": "hello"},)))


@given(SEEDS)
def test_letter_tasks_use_only_words_of_their_split(seed: int) -> None:
    rng = Random(seed)
    assert split_of(letters(rng, "train")) == "train"
    assert split_of(letters(rng, "held_out")) == "held_out"


@given(SEEDS)
def test_sums_of_the_splits_are_disjoint(seed: int) -> None:
    rng = Random(seed)
    train = {tuple(sorted(sums.numbers(rng, "train"))) for _ in range(20)}
    held_out = {tuple(sorted(sums.numbers(rng, "held_out"))) for _ in range(20)}
    assert all(max(pair) < 10 for pair in train & held_out)


def test_careless_answers_are_right_less_than_half_of_the_time() -> None:
    rng = Random(1)
    right = 0
    for _ in range(4000):
        a, b = sums.numbers(rng, "train")
        right += sums.careless(rng, a, b) == a + b
    assert 0.42 < right / 4000 < 0.50


@given(st.integers(0, 99), st.integers(0, 99))
def test_worked_columns_give_the_sum(a: int, b: int) -> None:
    totals = [int(total) for total in re.findall(r"=(\d+)\.", sums.worked(a, b))]
    assert int(str(totals[-1]) + "".join(str(total % 10) for total in totals[-2::-1])) == a + b


@pytest.mark.parametrize("kind", mixture.DOCUMENT_WEIGHTS)
def test_fast_rendering_equals_the_chat_template(kind: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(models.path())
    rng = Random(kind)
    for _ in range(4):
        example = mixture.draw_kind(rng, "train", kind)
        if example.text:
            assert render(example, rng)[0] == tokenizer(example.text + "<|endoftext|>").input_ids
            continue
        expected = tokenizer.apply_chat_template(
            list(example.messages),
            tools=list(example.tools) or None,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        ids, weights = next(pair for pair in (render(example, rng) for _ in range(100)) if 0.0 in pair[1])
        assert ids == expected["input_ids"]
        assert weights == expected["assistant_masks"]
        prompt, answer = prompt_and_answer(example)
        assert tokenizer.decode(ids[len(prompt) :]) == answer + "<|end|>"


def test_mixture_has_every_skill() -> None:
    seen = Counter(example.skill for example in islice(mixture.stream("all"), 4000))
    assert set(mixture.EVALUATED) <= set(seen)
    assert set(strings.ASKS) <= set(mixture.EVALUATED)


@pytest.mark.parametrize("skill", mixture.EVALUATED)
def test_evaluated_examples_accept_their_own_answer(skill: str) -> None:
    rng = Random(2)
    for _ in range(10):
        example = mixture.single(rng, "held_out", skill)
        _, answer = prompt_and_answer(example)
        assert example.skill == skill
        assert example.accepts is None or example.accepts(answer)
        assert example.accepts is None or not example.accepts("nonsense")


def test_pools_are_seeded_and_batches_keep_their_budget() -> None:
    plan = Plan(pool_documents=200, first_lesson_pools=1)
    batches = pool_batches(plan, 3)
    assert batches == pool_batches(plan, 3)
    assert batches != pool_batches(plan, 4)
    assert sum(len(batch) for batch in batches) == 200
    for batch in batches:
        longest = max(len(ids) for ids, _ in batch)
        assert longest <= CONTEXT
        assert len(batch) == 1 or longest * len(batch) <= plan.tokens_per_batch
