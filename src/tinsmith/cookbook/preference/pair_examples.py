"""Comparisons as pairs of rendered conversations: the same prompt, and the same room for both answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from tinsmith.cookbook.notices import warn_once
from tinsmith.cookbook.preference.comparison import Comparison, Messages, read_comparison
from tinsmith.cookbook.renderers import Renderer, SupervisedExample, TrainOnWhat
from tinsmith.cookbook.renderers.messages import flagged
from tinsmith.types.errors import invalid


class RenderedPair(NamedTuple):
    """A comparison as tokens and weights: 1 at what the assistant says in an answer, 0 elsewhere."""

    chosen: SupervisedExample
    rejected: SupervisedExample


def render_answer(renderer: Renderer, prompt: Messages, answer: Messages, tools: Any = None) -> SupervisedExample:
    """Render a prompt and an answer to it, whose turns of the assistant alone have a weight.

    Raises:
        UserError: the format cannot say the conversation.
    """
    messages = [flagged(message, False) for message in prompt]
    messages += [flagged(message, message["role"] == "assistant") for message in answer]
    return renderer.build_supervised_example(messages, TrainOnWhat.CUSTOMIZED, tools=tools)


def render_pair(comparison: Comparison, renderer: Renderer) -> RenderedPair:
    """Render both answers of a comparison, whole.

    Raises:
        UserError: the format cannot say them.
    """
    prompt, chosen, rejected, tools = comparison
    return RenderedPair(
        render_answer(renderer, prompt, chosen, tools), render_answer(renderer, prompt, rejected, tools)
    )


def cut_pair(pair: RenderedPair, longest: int | None) -> RenderedPair | None:
    """Cut both answers behind the same token, so that neither is judged by what the other was not allowed to say.

    Args:
        pair: rendered.
        longest: tokens of prompt and answer that are kept; None keeps all.

    Returns:
        The pair, or None where nothing of an answer is left, or nothing in which the answers differ.
    """
    chosen, rejected = (SupervisedExample(tokens[:longest], weights[:longest]) for tokens, weights in pair)
    if not any(chosen.weights[1:]) or not any(rejected.weights[1:]) or chosen.tokens == rejected.tokens:
        return None
    return RenderedPair(chosen, rejected)


class PairExamples:
    """Makes the two examples of a row, chosen and rejected; a function for `Batches(examples=)`.

    Args:
        renderer: of the model that reads them.
        max_length: tokens kept of a prompt and its answer; None keeps what the model reads.
        verdict: a token put behind both, where a scalar is read; None puts none.

    Attributes:
        context_length: tokens that the model reads, once that is known.
        truncated, left_out: pairs that were cut so far, and those of which nothing to compare was left.
        seen: pairs so far.

    Raises:
        UserError: a bound leaves no room for a prompt and an answer.
    """

    def __init__(self, renderer: Renderer, max_length: int | None = None, verdict: int | None = None) -> None:
        if max_length is not None and max_length < 2:
            raise invalid("max_length", max_length, "at least 2 tokens")
        self._renderer = renderer
        self._max_length = max_length
        self._verdict = verdict
        self.context_length: int | None = None
        self.seen = self.truncated = self.left_out = 0

    def __call__(self, row: Mapping[str, Any]) -> list[SupervisedExample]:
        """Return the two examples of a row, or none where nothing to compare is left of it.

        Raises:
            UserError: it is no comparison, or the renderer cannot say it.
        """
        pair = render_pair(read_comparison(row, self._renderer), self._renderer)
        self.seen += 1
        longest = self._longest
        kept = cut_pair(pair, longest)
        if kept is None:
            self.left_out += 1
            warn_once(
                f"pairs left out at {longest}",
                f"max_length: of {self.left_out} of {self.seen} pairs so far, {longest} tokens leave no answer, or no "
                "difference between the two; they are left out. Raise max_length, or shorten the data",
            )
            return []
        if kept != pair:
            self.truncated += 1
            warn_once(
                f"pairs cut at {longest}",
                f"max_length: {self.truncated} of {self.seen} pairs so far were longer than {longest} tokens; both "
                "answers were cut behind the same token. Raise max_length, or shorten the data, to compare whole ones",
            )
        if self._verdict is None:
            return list(kept)
        # The only token whose logprob counts; it is predicted from the whole conversation, its end marker included.
        return [SupervisedExample([*tokens, self._verdict], [*([0.0] * len(tokens)), 1.0]) for tokens, _ in kept]

    @property
    def _longest(self) -> int | None:
        room = self.context_length
        if room is not None:
            # The last token of an answer is only predicted, not read. A verdict is asked of a sampler, which reads it
            # and needs room for one more token.
            room += 1 if self._verdict is None else -2
        return min((bound for bound in (self._max_length, room) if bound is not None), default=None)
