"""`Completion` and the future of many: what `TrainingClient.sample` returns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, overload

from tinsmith.client.transport.futures import APIFuture, state_of
from tinsmith.client.transport.outcomes import OperationFuture
from tinsmith.types.outputs import SampledSequence, StopReason

if TYPE_CHECKING:
    from tinsmith.client.tokenizer.tokenizer import Tokenizer

Stops = str | Sequence[str | int] | None


class Completion(str):
    """A sampled text: a `str` that knows its tokens.

    The text leaves out control tokens and the stop sequence that ended it; `tokens` holds everything sampled.

    Attributes:
        tokens: the sampled ids, a stop token included.
        logprobs: logprob of each token under the distribution it was drawn from; None where the service gives none.
        prompt_tokens: ids of the prompt.
        stop_reason: `stop` at a stop sequence or token, `length` at max_tokens or the end of the context.
    """

    tokens: list[int]
    logprobs: list[float] | None
    prompt_tokens: list[int]
    stop_reason: StopReason

    # `__new__`, because the text of a `str` cannot be set any more when `__init__` runs.
    def __new__(
        cls,
        text: str,
        *,
        tokens: list[int],
        logprobs: list[float] | None,
        prompt_tokens: list[int],
        stop_reason: StopReason,
    ) -> Completion:
        """Make a completion of a text and its facts."""
        self = super().__new__(cls, text)
        self.tokens = tokens
        self.logprobs = logprobs
        self.prompt_tokens = prompt_tokens
        self.stop_reason = stop_reason
        return self

    @property
    def text(self) -> str:
        """The text as a plain `str`."""
        return str.__str__(self)

    # Without it a pickle would call `__new__` with the text alone.
    def __getnewargs_ex__(self) -> tuple[tuple[str], dict[str, Any]]:
        return (self.text,), dict(self.__dict__)

    @classmethod
    def of(cls, sequence: SampledSequence, prompt: list[int], tokenizer: Tokenizer, stop: Stops) -> Completion:
        """Decode one sampled sequence."""
        # The stop token goes before decoding, a stop text after it: a token may hold more than the end of the stop.
        text = tokenizer.decode_following(prompt, _without_stop_token(sequence, stop), skip_special_tokens=True)
        return cls(
            _without_stop_text(text, sequence, stop),
            tokens=sequence.tokens,
            logprobs=sequence.logprobs,
            prompt_tokens=prompt,
            stop_reason=sequence.stop_reason,
        )


def _without_stop_token(sequence: SampledSequence, stop: Stops) -> list[int]:
    stops = [] if stop is None or isinstance(stop, str) else [s for s in stop if isinstance(s, int)]
    ended_by_id = sequence.stop_reason == "stop" and sequence.tokens and sequence.tokens[-1] in stops
    return sequence.tokens[:-1] if ended_by_id else sequence.tokens


def _without_stop_text(text: str, sequence: SampledSequence, stop: Stops) -> str:
    if sequence.stop_reason != "stop" or stop is None:
        return text
    texts = [stop] if isinstance(stop, str) else [s for s in stop if isinstance(s, str)]
    # The earliest, wherever it is: the token that completed a stop may go on behind it.
    found = [at for at in (text.find(s) for s in texts) if at >= 0]
    return text[: min(found)] if found else text


class Completions(list[Completion]):
    """All completions of a call, flat: those of the first prompt, then those of the second, and so on."""

    def __init__(self, groups: Sequence[Sequence[Completion]]) -> None:
        super().__init__(completion for group in groups for completion in group)
        self.groups: list[list[Completion]] = [list(group) for group in groups]

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.groups,))


class SampleFuture(APIFuture[Completions]):
    """The future of `TrainingClient.sample`; reading it as a sequence waits for the completions.

    Args:
        future: gives the completions.
        count: number of prompts times samples of each.
    """

    def __init__(self, future: OperationFuture[Completions], count: int) -> None:
        self._future = future
        self._count = count

    def future(self) -> Future[Completions]:
        """Return the `concurrent.futures.Future` behind it."""
        return self._future

    def __repr__(self) -> str:
        state = state_of(self._future)
        if state != "done":
            return f"<SampleFuture: {state}>"
        return f"<SampleFuture: {[_short(completion) for completion in self._future.result()]}>"

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Completion]:
        return iter(self.result())

    @overload
    def __getitem__(self, index: int) -> Completion: ...
    @overload
    def __getitem__(self, index: slice) -> list[Completion]: ...
    def __getitem__(self, index: int | slice) -> Completion | list[Completion]:
        return self.result()[index]

    @property
    def groups(self) -> list[list[Completion]]:
        """The completions of each prompt."""
        return self.result().groups


def _short(text: str) -> str:
    return text[:200] + ("..." if len(text) > 200 else "")
