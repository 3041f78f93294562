"""Trajectories as training examples.

Where each observation begins with all that was read and said before, an episode of many turns is one sequence, which is
forwarded once. Where an observation begins otherwise, because a chat format drops earlier thinking for example, a new
sequence begins with it. What was sampled is trained as it was sampled: ids are never decoded and encoded again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from tinsmith import Datum, ModelInput, PromptProvenanceSpan, SampledProvenanceSpan
from tinsmith.cookbook.rl.trajectories import Trajectory
from tinsmith.types.provenance import ProvenanceSpan


@dataclass
class Example:
    """One sequence that is trained; all lists have its N tokens.

    Attributes:
        tokens: ids, observations and actions in turn.
        logprobs: of each action token when it was sampled; 0 for observations.
        advantages: of each action token; 0 for observations.
        action: whether each token was sampled.
        spans: where the tokens come from, for `stable_reinforce`; empty where the service did not name what it sampled.
    """

    tokens: list[int] = field(default_factory=list[int])
    logprobs: list[float] = field(default_factory=list[float])
    advantages: list[float] = field(default_factory=list[float])
    action: list[bool] = field(default_factory=list[bool])
    spans: list[ProvenanceSpan] = field(default_factory=list["ProvenanceSpan"])

    def read(self, tokens: Sequence[int], sequence_id: str | None = None) -> None:
        """Append what was observed, before the sequence of that name was sampled."""
        if sequence_id and tokens:
            # The observation began with all that is here already, so places here are places in it.
            self.spans.append(
                PromptProvenanceSpan(sequence_id=sequence_id, offset=len(self.tokens), length=len(tokens))
            )
        self._append(tokens, [0.0] * len(tokens), 0.0, False)

    def say(
        self, tokens: Sequence[int], logprobs: Sequence[float], advantage: float, sequence_id: str | None = None
    ) -> None:
        """Append what was sampled, as the sequence of that name."""
        if sequence_id and tokens:
            self.spans.append(SampledProvenanceSpan(sequence_id=sequence_id, length=len(tokens)))
        self._append(tokens, logprobs, advantage, True)

    def _append(self, tokens: Sequence[int], logprobs: Sequence[float], advantage: float, action: bool) -> None:
        self.tokens += tokens
        self.logprobs += logprobs
        self.advantages += [advantage] * len(tokens)
        self.action += [action] * len(tokens)

    @property
    def trained_tokens(self) -> int:
        """Number of tokens that a loss looks at."""
        return sum(self.action)

    def datum(self, loss_fn: str = "importance_sampling") -> Datum:
        """Return the example shifted: position i of N - 1 predicts token i + 1.

        Args:
            loss_fn: whose inputs it gets. `gspo` reads a mask of the action tokens beside advantages and logprobs;
                `stable_reinforce` takes the logprobs from the service's own record of what it sampled;
                `cross_entropy` reads the advantages as weights and knows nothing of who sampled.
        """
        inputs: dict[str, list[int] | list[float]] = {"target_tokens": self.tokens[1:]}
        if loss_fn == "cross_entropy":
            inputs["weights"] = self.advantages[1:]
        else:
            inputs["advantages"] = self.advantages[1:]
        if loss_fn not in ("cross_entropy", "stable_reinforce"):
            inputs["logprobs"] = self.logprobs[1:]
        if loss_fn == "gspo":
            inputs["sequence_ratio_mask"] = [float(action) for action in self.action[1:]]
        datum = Datum(model_input=ModelInput.from_ints(self.tokens[:-1]), loss_fn_inputs=inputs)
        if loss_fn != "stable_reinforce":
            return datum
        last, first = self.spans[-1], self.spans[0]
        return datum.with_provenance(
            model_input=[*self.spans[:-1], replace(last, length=last.length - 1)],
            loss_fn_inputs=[replace(first, offset=first.offset + 1, length=first.length - 1), *self.spans[1:]],
        )


def examples_of(trajectory: Trajectory, advantages: Sequence[float]) -> Iterator[Example]:
    """Yield the examples of an episode; none where nothing was said.

    Args:
        trajectory: the episode.
        advantages: of each turn, which all its action tokens take.
    """
    example = Example()
    for transition, advantage in zip(trajectory.transitions, advantages, strict=True):
        observed = transition.ob.to_ints()
        if example.tokens and observed[: len(example.tokens)] != example.tokens:
            if example.trained_tokens:
                yield example
            example = Example()
        action = transition.ac
        example.read(observed[len(example.tokens) :], action.sequence_id)
        example.say(action.tokens, action.logprobs, advantage, action.sequence_id)
    if example.trained_tokens:
        yield example
