"""Sampled turns: groups of several prompts, the same whether one waits or awaits, with ids that a trainer can use."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

import tinsmith
from tinsmith.cookbook.completers import Completer, SampledTurn, sample_answers, sample_responses
from tinsmith.cookbook.datasets import general
from tinsmith.cookbook.renderers import TurnEnd

QUESTIONS = [row["messages"][:1] for row in general.rows(4)]


@pytest.fixture(scope="module")
def completer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Completer]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINSMITH_HOME", str(tmp_path_factory.mktemp("home")))
        with tinsmith.ServiceClient() as service:
            yield Completer.open(service, base_model="tinsmith-tiny")


def prompts(completer: Completer) -> list[tinsmith.ModelInput]:
    return [completer.renderer.build_generation_prompt(question) for question in QUESTIONS]


def tokens_of(groups: list[list[SampledTurn]]) -> list[list[list[int]]]:
    return [[turn.tokens for turn in group] for group in groups]


@pytest.mark.row(80)
def test_each_prompt_gets_its_group_with_the_seed_of_its_place(completer: Completer) -> None:
    groups = completer.complete(prompts(completer), num_samples=3, max_tokens=12, temperature=4.0, seed=40)
    assert [len(group) for group in groups] == [3] * len(QUESTIONS)
    stop = completer.renderer.get_stop_sequences()
    for place, (prompt, group) in enumerate(zip(prompts(completer), groups, strict=True)):
        params = tinsmith.SamplingParams(max_tokens=12, temperature=4.0, seed=40 + place, stop=stop)
        sampled = completer.sampler.sample(prompt, 3, params).result().sequences
        assert [turn.tokens for turn in group] == [sequence.tokens for sequence in sampled]
    assert len({tuple(turn.tokens) for group in groups for turn in group}) > len(QUESTIONS)


def test_a_turn_has_ids_their_logprobs_what_they_say_and_why_it_ended(completer: Completer) -> None:
    ((whole,),) = completer.complete(prompts(completer)[:1], max_tokens=30, temperature=0.0, seed=0)
    assert whole.end is TurnEnd.MARKER
    assert completer.renderer.parse_response(whole.tokens) == (whole.message, whole.end)
    learner = completer.sampler.compute_logprobs([*prompts(completer)[0].to_ints(), *whole.tokens]).result()
    assert whole.logprobs == pytest.approx(learner[-len(whole.tokens) :], abs=1e-4)
    ((cut,),) = completer.complete(prompts(completer)[:1], max_tokens=2, temperature=0.0, seed=0)
    assert cut.end is TurnEnd.CUT_OFF
    assert cut.tokens == whole.tokens[:2]


def test_awaited_and_waited_for_they_are_the_same(completer: Completer) -> None:
    async def both() -> list[list[list[SampledTurn]]]:
        asked = [
            completer.complete_async(prompts(completer), num_samples=2, max_tokens=8, temperature=4.0, seed=seed)
            for seed in (3, 4)
        ]
        return await asyncio.gather(*asked)

    first, second = asyncio.run(both())
    waited = completer.complete(prompts(completer), num_samples=2, max_tokens=8, temperature=4.0, seed=3)
    assert tokens_of(first) == tokens_of(waited)
    # At temperature 1 a trained model is so sure of its answer that two seeds may well agree.
    assert tokens_of(first) != tokens_of(second)


def test_answers_and_responses_are_one_turn_each(completer: Completer) -> None:
    settings = {"max_tokens": 20, "temperature": 1.0, "seed": 7}
    groups = completer.complete(prompts(completer), **settings)
    sampler, renderer = completer.sampler, completer.renderer
    turns = sample_responses(sampler, renderer, QUESTIONS, max_tokens=20, temperature=1.0, seed=7)
    assert [turn.tokens for turn in turns] == [turn.tokens for (turn,) in groups]
    answers = sample_answers(sampler, renderer, QUESTIONS, max_tokens=20, temperature=1.0, seed=7)
    assert answers == [turn.message["content"] for turn in turns]
