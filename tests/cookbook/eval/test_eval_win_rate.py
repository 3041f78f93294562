"""Win rate: both orders, ties, intervals, judges by grade and by model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinsmith
from tests.cookbook.eval.tuned import context_of, service_in, tune
from tinsmith.cookbook.datasets import pig_latin
from tinsmith.cookbook.eval.judges import GradedJudge, Match, ModelJudge, read_verdict
from tinsmith.cookbook.eval.win_rate import WinRateEvaluator, scores_of, tally, wilson_interval
from tinsmith.cookbook.renderers import get_renderer
from tinsmith.cookbook.runs.transcripts.transcript import Transcript
from tinsmith.types.errors import UserError
from tinsmith.types.outputs import SampledSequence, SampleResponse

WORDS = pig_latin.rows(pig_latin.draw_words("held_out", 40, seed=1))
_verdict = st.sampled_from([0.0, 0.5, 1.0, None])
_pairs = st.lists(st.tuples(_verdict, _verdict), min_size=1, max_size=30)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tinsmith.ServiceClient]:
    with service_in(tmp_path_factory.mktemp("home")) as client:
        yield client


@pytest.mark.row(69)
@given(_pairs)
def test_a_tally_adds_up_and_turns_round_with_its_sides(pairs: list[tuple[float | None, float | None]]) -> None:
    there, back = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    found, turned = tally([*there, *back]), tally([*back, *there])
    assert found["/win"] + found["/tie"] + found["/loss"] == pytest.approx(1.0)
    assert 0.0 <= found["/low"] <= found[""] <= found["/high"] <= 1.0
    assert turned[""] == pytest.approx(1.0 - found[""])
    assert (turned["/win"], turned["/loss"]) == (found["/loss"], found["/win"])
    assert found["/no_verdict"] == sum(verdict is None for verdict in [*there, *back]) / (2 * len(pairs))
    assert sum(scores_of([*there, *back])) == pytest.approx(found[""] * len(pairs))


@pytest.mark.row(69)
def test_a_judge_who_likes_the_first_answer_decides_nothing() -> None:
    found = tally([1.0] * 20)
    assert (found[""], found["/tie"], found["/inconsistent"]) == (0.5, 1.0, 1.0)
    better = tally([1.0] * 10 + [0.0] * 10)
    assert (better[""], better["/win"], better["/inconsistent"], better["/high"]) == (1.0, 1.0, 0.0, 1.0)


def test_the_interval_is_wilson_s() -> None:
    low, high = wilson_interval(0.9, 10)
    assert (low, high) == (pytest.approx(0.5958, abs=1e-4), pytest.approx(0.9821, abs=1e-4))
    # Its ends are where the mean lies z standard errors of the end away.
    for end in (low, high):
        assert abs(0.9 - end) == pytest.approx(1.96 * math.sqrt(end * (1 - end) / 10), rel=1e-9)


@pytest.mark.slow
@pytest.mark.row(69)
def test_the_tuned_model_wins_where_it_learned_and_ties_with_itself(
    service: tinsmith.ServiceClient, tmp_path: Any
) -> None:
    evaluator = WinRateEvaluator(WORDS, GradedJudge(_nearness), "pig", max_tokens=20)
    untrained = evaluator(context_of(service))
    assert (untrained["eval/pig"], untrained["eval/pig/tie"]) == (0.5, 1.0)
    with Transcript(tmp_path, 12, "win rate") as page:
        context = context_of(service, tune(service))
        context.transcript = page
        found = evaluator(context)
    assert found["eval/pig/low"] > 0.5
    assert found["eval/pig/inconsistent"] == found["eval/pig/no_verdict"] == 0.0
    (written,) = tmp_path.rglob("step-000012.html")
    assert str(WORDS[0]["messages"][0]["content"]) in written.read_text()


def _nearness(row: Mapping[str, Any], answer: str) -> float:
    """Grade by the letters in place, so that a model which has not finished learning is seen to learn."""
    expected = row["messages"][-1]["content"]
    return sum(a == b for a, b in zip(answer, expected, strict=False)) - abs(len(answer) - len(expected))


@pytest.mark.parametrize(
    ("judge", "message"),
    [
        (lambda matches: [1.0], "judge: got '1 verdicts', expected 4, one per match"),
        (lambda matches: [2.0] * len(matches), "judge: got 2.0, expected 1"),
        (lambda matches: [math.nan] * len(matches), "judge: got nan, expected 1"),
        (GradedJudge(lambda row, answer: math.nan), "grader: got nan, expected grades that can be compared"),
    ],
)
def test_verdicts_that_are_none_are_refused(service: tinsmith.ServiceClient, judge: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        WinRateEvaluator(WORDS[:2], judge, max_tokens=4)(context_of(service))
    with pytest.raises(UserError, match="rows: got \\[\\]"):
        WinRateEvaluator([], judge)


class Scripted:
    """A judging model by rule, behind the interface of a sampling client: what it reads is what it was sent."""

    def __init__(self, tokenizer: Any, rule: Callable[[str], str]) -> None:
        self._tokenizer = tokenizer
        self._rule = rule

    def sample(self, prompt: Any, num_samples: int, sampling_params: Any) -> Scripted._Future:
        assert num_samples == 1
        text = self._rule(self._tokenizer.decode(prompt.to_ints()))
        tokens = [*text.encode(), self._tokenizer.encode("<|end|>")[0]]
        return self._Future(SampleResponse(sequences=[SampledSequence("stop", tokens)]))

    class _Future:
        def __init__(self, response: SampleResponse) -> None:
            self._response = response

        def result(self) -> SampleResponse:
            return self._response


def judge_by(service: tinsmith.ServiceClient, rule: Callable[[str], str], **options: Any) -> ModelJudge:
    tokenizer = service.get_tokenizer("tinsmith-tiny")
    scripted = cast(tinsmith.SamplingClient, Scripted(tokenizer, rule))
    return ModelJudge(scripted, get_renderer("tinsmith_tiny", tokenizer), **options)


def matches_of(*pairs: tuple[str, str]) -> Sequence[Match]:
    row = {"messages": [{"role": "user", "content": "Say {first} or {second}."}]}
    return [Match(row, *pair) for pair in pairs]


@pytest.mark.row(69)
def test_a_model_judges_what_it_reads_and_its_last_word_counts(service: tinsmith.ServiceClient) -> None:
    read: list[str] = []

    def longer(question: str) -> str:
        read.append(question)
        first = question.split("[Answer A]\n")[1].split("\n")[0]
        second = question.split("[Answer B]\n")[1].split("\n")[0]
        better = "tie" if len(first) == len(second) else "A" if len(first) > len(second) else "B"
        return f"At first I thought Verdict: B. But no.\nVerdict: **{better}**"

    verdicts = judge_by(service, longer)(matches_of(("long one", "short"), ("a", "bb"), ("ab", "cd")))
    assert verdicts == [1.0, 0.0, 0.5]
    # What an answer or a question spells is never taken for a place to fill in.
    assert "user: Say {first} or {second}." in read[0]


def test_a_verdict_is_read_or_there_is_none(service: tinsmith.ServiceClient) -> None:
    assert [read_verdict(text) for text in ("Verdict: A", "verdict: *tie*", "VERDICT: b.", "A is better", "")] == [
        1.0,
        0.5,
        0.0,
        None,
        None,
    ]
    assert judge_by(service, lambda question: "I cannot say.")(matches_of(("a", "b"))) == [None]
    with pytest.raises(UserError, match=r"question: got 'Which\?', expected a text with {conversation} in it"):
        judge_by(service, str, question="Which?")
