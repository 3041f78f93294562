"""Trajectories become sequences: merged where an observation extends the last, and always the ids that were sampled."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinsmith import Completion, ModelInput, SampledProvenanceSpan
from tinsmith.cookbook.rl import TokensWithLogprobs, Trajectory, TrajectoryGroup, Transition, create_rl_data
from tinsmith.cookbook.rl.learning.advantages import mean_baseline
from tinsmith.cookbook.rl.learning.examples import examples_of
from tinsmith.cookbook.rl.learning.group_examples import group_examples

TOKENS = st.lists(st.integers(0, 50), min_size=1, max_size=5)
# Turns of an episode: what is added to the observation, what is said, and whether the observation begins anew.
TURNS = st.lists(st.tuples(TOKENS, TOKENS, st.booleans()), min_size=1, max_size=6)


def turn(observed: list[int], said: list[int], reward: float = 0.0, name: str = "s") -> Transition:
    action = TokensWithLogprobs(said, [-0.1 * (token + 1) for token in said], sequence_id=name)
    return Transition(ModelInput.from_ints(observed), action, reward, False)


def episode(turns: list[tuple[list[int], list[int], bool]]) -> Trajectory:
    read: list[int] = []
    transitions: list[Transition] = []
    for added, said, anew in turns:
        # 99 is said by nobody, so that an observation that begins with it extends nothing.
        read = [99, *added] if anew else [*read, *added]
        transitions.append(turn(read, said))
        read = [*read, *said]
    return Trajectory(transitions, ModelInput.from_ints(read))


def test_an_episode_of_many_turns_is_one_sequence_where_each_observation_extends_the_last() -> None:
    (example,) = examples_of(
        Trajectory([turn([1, 2], [3, 4]), turn([1, 2, 3, 4, 5], [6])], ModelInput.empty()), [0.5, 0.25]
    )
    assert example.tokens == [1, 2, 3, 4, 5, 6]
    assert example.action == [False, False, True, True, False, True]
    assert example.advantages == [0, 0, 0.5, 0.5, 0, 0.25]
    datum = example.datum()
    assert datum.model_input.to_ints() == [1, 2, 3, 4, 5]
    assert datum.loss_fn_inputs["target_tokens"].tolist() == [2, 3, 4, 5, 6]
    assert datum.loss_fn_inputs["advantages"].tolist() == [0, 0.5, 0.5, 0, 0.25]
    assert datum.loss_fn_inputs["logprobs"].tolist() == pytest.approx([0, -0.4, -0.5, 0, -0.7])


def test_an_observation_that_drops_earlier_turns_begins_a_sequence() -> None:
    found = list(examples_of(Trajectory([turn([1, 2], [3, 4]), turn([1, 2, 4, 5], [6])], ModelInput.empty()), [1, 1]))
    assert [example.tokens for example in found] == [[1, 2, 3, 4], [1, 2, 4, 5, 6]]


@given(turns=TURNS)
def test_every_sampled_token_is_trained_once_as_it_was_sampled(turns: list[tuple[list[int], list[int], bool]]) -> None:
    trajectory = episode(turns)
    said: list[tuple[int, float]] = []
    for example in examples_of(trajectory, [2.0] * len(turns)):
        datum = example.datum()
        targets = datum.loss_fn_inputs["target_tokens"].to_numpy()
        advantages = datum.loss_fn_inputs["advantages"].to_numpy()
        logprobs = datum.loss_fn_inputs["logprobs"].to_numpy()
        # What is predicted is what stands one place further on.
        assert [*datum.model_input.to_ints(), targets[-1]] == [datum.model_input.to_ints()[0], *targets]
        spoken = np.flatnonzero(advantages)
        said += [(int(targets[i]), float(logprobs[i])) for i in spoken]
        assert not logprobs[advantages == 0].any()
    expected = [pair for t in trajectory.transitions for pair in zip(t.ac.tokens, t.ac.logprobs, strict=True)]
    assert [token for token, _ in said] == [token for token, _ in expected]
    assert [logprob for _, logprob in said] == pytest.approx([logprob for _, logprob in expected])
    # One sequence more for each observation that begins anew behind the first turn.
    anew = sum(again for _, _, again in turns[1:])
    assert len(list(examples_of(trajectory, [2.0] * len(turns)))) == 1 + anew


def test_each_loss_gets_its_inputs() -> None:
    (example,) = examples_of(Trajectory([turn([1], [2, 3])], ModelInput.empty()), [-1.0])
    assert set(example.datum("ppo").loss_fn_inputs) == {"target_tokens", "logprobs", "advantages"}
    assert example.datum("gspo").loss_fn_inputs["sequence_ratio_mask"].tolist() == [1, 1]
    plain = example.datum("cross_entropy").loss_fn_inputs
    assert (set(plain), plain["weights"].tolist()) == ({"target_tokens", "weights"}, [-1, -1])


@given(turns=TURNS)
def test_spans_tell_where_every_token_comes_from(turns: list[tuple[list[int], list[int], bool]]) -> None:
    trajectory = episode(turns)
    named = [replace(t, ac=replace(t.ac, sequence_id=str(i))) for i, t in enumerate(trajectory.transitions)]
    for example in examples_of(replace(trajectory, transitions=named), [1.0] * len(turns)):
        datum = example.datum("stable_reinforce")
        assert set(datum.loss_fn_inputs) == {"target_tokens", "advantages"}
        for spans, tokens in (
            (datum.model_input_spans, datum.model_input.to_ints()),
            (datum.loss_fn_input_spans, datum.loss_fn_inputs["target_tokens"].tolist()),
        ):
            told: list[int] = []
            for span in spans or ():
                source = named[int(span.sequence_id)]
                of = source.ac.tokens if isinstance(span, SampledProvenanceSpan) else source.ob.to_ints()
                told += of[span.offset : span.offset + span.length]
            assert told == tokens


@pytest.mark.row(83)
def test_a_group_of_equal_rewards_is_left_out_and_keeps_its_tags() -> None:
    def group(*rewards: float) -> TrajectoryGroup:
        found = [Trajectory([turn([1], [2], reward)], ModelInput.empty()) for reward in rewards]
        return TrajectoryGroup(found, [0.0] * len(found), [{}] * len(found), ("sums",))

    equal = group_examples(group(1, 1), mean_baseline, remove_constant=True)
    assert (equal.constant, equal.examples, equal.group.tags) == (True, [], ("sums",))
    assert len(group_examples(group(1, 1), mean_baseline, remove_constant=False).examples) == 2
    mixed = group_examples(group(1, 0), mean_baseline, remove_constant=True)
    assert [(place, example.advantages[-1]) for place, example in mixed.examples] == [(0, 0.5), (1, -0.5)]


def test_an_episode_in_which_nothing_was_said_teaches_nothing() -> None:
    assert list(examples_of(Trajectory([], ModelInput.from_ints([1])), [])) == []


def completion(logprobs: list[float] | None = None) -> Completion:
    return Completion("hi", tokens=[8, 9], logprobs=logprobs, prompt_tokens=[1, 2], stop_reason="stop")


@pytest.mark.row(77)
def test_completions_become_data_by_their_ids() -> None:
    (datum,) = create_rl_data([completion([-0.5, -1.0])], rewards=[1.0], advantages=[0.25])
    assert datum.model_input.to_ints() == [1, 2, 8]
    assert datum.loss_fn_inputs["target_tokens"].tolist() == [2, 8, 9]
    assert datum.loss_fn_inputs["logprobs"].tolist() == [0, -0.5, -1]
    assert datum.loss_fn_inputs["advantages"].tolist() == [0, 0.25, 0.25]


def test_completions_that_make_no_data_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"rewards: got '2 numbers', expected 1"):
        create_rl_data([completion([-0.5, -1.0])], [1.0, 0.0], [1.0])
    with pytest.raises(ValueError, match=r"responses\[0\]\.logprobs"):
        create_rl_data([completion(None)], [1.0], [1.0])
