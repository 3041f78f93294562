"""Trajectories as training examples.

Where each observation begins with all that was read and said before, an episode of many turns is one sequence, which is
forwarded once. Where an observation begins otherwise, because a chat format drops earlier thinking for example, a new
sequence begins with it. What was sampled is trained as it was sampled: ids are never decoded and encoded again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tinsmith import Datum, ModelInput
from tinsmith.cookbook.rl.trajectories import Trajectory


@dataclass
class Example:
    """One sequence that is trained; all lists have its N tokens.

    Attributes:
        tokens: ids, observations and actions in turn.
        logprobs: of each action token when it was sampled; 0 for observations.
        advantages: of each action token; 0 for observations.
        action: whether each token was sampled.
    """

    tokens: list[int] = field(default_factory=list[int])
    logprobs: list[float] = field(default_factory=list[float])
    advantages: list[float] = field(default_factory=list[float])
    action: list[bool] = field(default_factory=list[bool])

    def read(self, tokens: Sequence[int]) -> None:
        """Append what was observed."""
        self._append(tokens, [0.0] * len(tokens), 0.0, False)

    def say(self, tokens: Sequence[int], logprobs: Sequence[float], advantage: float) -> None:
        """Append what was sampled."""
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
                `cross_entropy` reads the advantages as weights and knows nothing of who sampled.
        """
        inputs: dict[str, list[int] | list[float]] = {"target_tokens": self.tokens[1:]}
        if loss_fn == "cross_entropy":
            inputs["weights"] = self.advantages[1:]
        else:
            inputs |= {"logprobs": self.logprobs[1:], "advantages": self.advantages[1:]}
        if loss_fn == "gspo":
            inputs["sequence_ratio_mask"] = [float(action) for action in self.action[1:]]
        return Datum(model_input=ModelInput.from_ints(self.tokens[:-1]), loss_fn_inputs=inputs)


def examples_of(trajectory: Trajectory, advantage: float) -> Iterator[Example]:
    """Yield the examples of an episode; none where nothing was said.

    Args:
        trajectory: the episode.
        advantage: of all its action tokens.
    """
    example = Example()
    for transition in trajectory.transitions:
        observed = transition.ob.to_ints()
        if example.tokens and observed[: len(example.tokens)] != example.tokens:
            if example.trained_tokens:
                yield example
            example = Example()
        example.read(observed[len(example.tokens) :])
        example.say(transition.ac.tokens, transition.ac.logprobs, advantage)
    if example.trained_tokens:
        yield example
