"""Teachers: whom a student learns from, opened and compared with the student before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from tinsmith import APIFuture, ModelInput, SampleResponse, SamplingClient, SamplingParams, ServiceClient
from tinsmith.cookbook.completers import Completer, SampledTurn
from tinsmith.cookbook.model_info import get_model_attributes
from tinsmith.cookbook.notices import warn_once
from tinsmith.cookbook.renderers import Renderer
from tinsmith.cookbook.rl.rollouts.env_errors import about_the_sampler
from tinsmith.types.errors import TinsmithError, UserError, invalid
from tinsmith.types.outputs import EMPTY_TOPK_LOGPROB

T = TypeVar("T")
Q = TypeVar("Q")
# Letters, spaces and digits, which tokenizers of the same vocabulary may still cut otherwise.
_PROBE = "A teacher's 1234 words,  some of them in\n\tunusual places: naïve façade, 56+78=134 </s>"


class TeacherSpec(NamedTuple):
    """Names a teacher.

    Attributes:
        model: a base model, by the name that its service knows; or
        path: saved sampler weights, `tinker://...`.
        base_url: the service that holds it; None is the student's.
    """

    model: str | None = None
    path: str | None = None
    base_url: str | None = None

    def __str__(self) -> str:
        return f"{self.path or self.model}{f' at {self.base_url}' if self.base_url else ''}"


class Scored(NamedTuple):
    """A text that a teacher is to look at.

    Attributes:
        prompt: ids that come before it, at least one.
        said: S ids, at least one.
    """

    prompt: Sequence[int]
    said: Sequence[int]


class Likeliest(NamedTuple):
    """The teacher's likeliest tokens at each place of a text.

    Attributes:
        ids: int64 [S, K].
        logprobs: float64 [S, K] in nats, likeliest first; -inf where there is no such token, or the place lies behind
            what the teacher reads.
        own: float64 [S], the logprob of the token that was said; NaN behind what the teacher reads.
    """

    ids: npt.NDArray[np.int64]
    logprobs: npt.NDArray[np.float64]
    own: npt.NDArray[np.float64]


class Teacher:
    """A teacher that fits its student. All that one call asks for is under way before the first answer is waited for.

    Args:
        spec: its name.
        open_sampler: makes a client of it.
        renderer: of the student, whose format both read and speak.
        context_length: tokens that it reads.
    """

    def __init__(
        self, spec: TeacherSpec, open_sampler: Callable[[], SamplingClient], renderer: Renderer, context_length: int
    ) -> None:
        self.spec = spec
        self.context_length = context_length
        self._open = open_sampler
        self._renderer = renderer
        self._sampler = open_sampler()

    def logprobs(self, texts: Sequence[Scored]) -> list[list[float | None]]:
        """Return the logprob of each token that was said, in nats; None behind what the teacher reads.

        Raises:
            TinsmithError: the service failed; the message names the teacher.
        """

        def asked(text: Scored) -> Callable[[SamplingClient], APIFuture[list[float | None]]]:
            tokens, last = self._readable(text)
            return lambda sampler: sampler.compute_logprobs(tokens, prompt_logprobs_last_n=last)

        readable = [text for text in texts if self._readable(text)[1]]
        answers = iter(self._ask([asked(text) for text in readable]))
        found: list[list[float | None]] = []
        for text in texts:
            last = self._readable(text)[1]
            known = list(next(answers)[-last:]) if last else []
            found.append([*known, *[None] * (len(text.said) - last)])
        return found

    def likeliest(self, texts: Sequence[Scored], k: int) -> list[Likeliest]:
        """Return the k likeliest tokens at each place of what was said.

        Raises:
            TinsmithError: as `logprobs`.
        """
        readable = [text for text in texts if self._readable(text)[1]]
        answers = iter(self._ask([self._likeliest_request(text, k) for text in readable]))
        return [
            _likeliest(next(answers) if self._readable(text)[1] else None, len(text.said), self._readable(text)[1], k)
            for text in texts
        ]

    def sample(
        self, prompts: Sequence[Sequence[int]], *, num_samples: int, max_tokens: int, temperature: float, seed: int
    ) -> list[list[SampledTurn]]:
        """Return `num_samples` answers to each prompt; prompt i is drawn from `seed + i`.

        Raises:
            TinsmithError: as `logprobs`.
        """
        asked = [ModelInput.from_ints(list(prompt)) for prompt in prompts]
        try:
            return Completer(self._sampler, self._renderer).complete(
                asked, num_samples=num_samples, max_tokens=max_tokens, temperature=temperature, seed=seed
            )
        except (TinsmithError, UserError) as error:
            raise TinsmithError(f"teacher {self.spec}: {error}") from error

    def _likeliest_request(self, text: Scored, k: int) -> Callable[[SamplingClient], APIFuture[SampleResponse]]:
        tokens, last = self._readable(text)
        return lambda sampler: sampler.sample(
            tokens,
            1,
            SamplingParams(max_tokens=1),
            include_prompt_logprobs=True,
            topk_prompt_logprobs=k,
            prompt_logprobs_last_n=last,
        )

    def _readable(self, text: Scored) -> tuple[list[int], int]:
        """Return the tokens that the teacher can be asked about, and how many of what was said are among them."""
        # Logprobs of a prompt need room for one token behind it, so the last token of a full context has none.
        tokens = [*text.prompt, *text.said][: self.context_length - 1]
        return tokens, max(0, len(tokens) - len(text.prompt))

    def _ask(self, requests: Sequence[Callable[[SamplingClient], APIFuture[T]]]) -> list[T]:
        try:
            try:
                return self._results(requests)
            except TinsmithError as error:
                if not about_the_sampler(error):
                    raise
                warn_once(f"teacher {self.spec}", f"teacher {self.spec}: {error}; its sampler is made anew")
                self._sampler = self._open()
                return self._results(requests)
        except (TinsmithError, UserError) as error:
            raise TinsmithError(f"teacher {self.spec}: {error}") from error

    def _results(self, requests: Sequence[Callable[[SamplingClient], APIFuture[T]]]) -> list[T]:
        futures = [request(self._sampler) for request in requests]
        return [future.result() for future in futures]


def ask_each(
    teachers: Sequence[Teacher], questions: Sequence[Q], ask: Callable[[Teacher, list[Q]], list[T]]
) -> list[T]:
    """Return the answer to each question by its teacher, in order; each teacher is asked once, for all of its own."""
    places: dict[int, list[int]] = {}
    for place, teacher in enumerate(teachers):
        places.setdefault(id(teacher), []).append(place)
    found: dict[int, T] = {}
    for own in places.values():
        found |= zip(own, ask(teachers[own[0]], [questions[place] for place in own]), strict=True)
    return [found[place] for place in range(len(teachers))]


def _likeliest(response: SampleResponse | None, said: int, known: int, k: int) -> Likeliest:
    ids = np.zeros((said, k), np.int64)
    logprobs = np.full((said, k), -np.inf)
    own = np.full(said, np.nan)
    if response is not None:
        top, logprob = response.topk_prompt_logprobs_np, response.prompt_logprobs_np
        if top is None or logprob is None:
            raise TinsmithError("topk_prompt_logprobs: the service gave none")
        width = min(k, top.token_ids.shape[1])
        ids[:known, :width] = top.token_ids[-known:, :width]
        values = top.logprobs[-known:, :width].astype(np.float64)
        logprobs[:known, :width] = np.where(values <= EMPTY_TOPK_LOGPROB, -np.inf, values)
        own[:known] = logprob[-known:]
    return Likeliest(ids, logprobs, own)


class Student(NamedTuple):
    """What a teacher has to fit.

    Attributes:
        service: the run's.
        model_name: the student's base model.
        tokenizer, renderer: of the student.
        max_trajectory_tokens: longest sequence that it is trained on; None is its whole context.
        top_k: how many likeliest tokens teachers are asked for; 0 for none.
    """

    service: ServiceClient
    model_name: str
    tokenizer: Any
    renderer: Renderer
    max_trajectory_tokens: int | None
    top_k: int


def open_teacher(spec: TeacherSpec, student: Student, exits: ExitStack) -> Teacher:
    """Open a teacher and compare it with its student; nothing is sampled, scored or trained before that.

    Args:
        spec: its name.
        student: whom it has to fit.
        exits: closes the client of another service.

    Raises:
        UserError: it names no teacher or two, the teacher's tokenizer is another one than the student's, its context is
            shorter, or its service gives fewer likeliest tokens.
        TinsmithError: its service cannot be reached, or does not have it.
    """
    if (spec.model is None) == (spec.path is None):
        raise invalid("teacher", f"model {spec.model}, path {spec.path}", "a base model or saved weights: one of them")
    service = student.service
    if spec.base_url is not None:
        service = exits.enter_context(ServiceClient(base_url=spec.base_url, user_metadata={"role": "teacher"}))
    try:
        sampler = service.create_sampling_client(model_path=spec.path, base_model=spec.model)
        base = sampler.get_base_model()
        tokenizer = sampler.get_tokenizer()
    except (TinsmithError, UserError) as error:
        raise TinsmithError(f"teacher {spec}: {error}") from error
    _check_tokenizer(spec, student, tokenizer)
    context = _context_length(service, base)
    needed = student.max_trajectory_tokens or _context_length(student.service, student.model_name)
    if context < needed:
        whose = "max_trajectory_tokens" if student.max_trajectory_tokens else f"as {student.model_name} reads"
        raise invalid(
            f"teacher {spec}: context",
            f"{context} tokens",
            f"at least {needed}, {whose}; another teacher, or max_trajectory_tokens={context} for shorter answers",
        )
    teacher = Teacher(
        spec,
        lambda: service.create_sampling_client(model_path=spec.path, base_model=spec.model),
        student.renderer,
        context,
    )
    if student.top_k:
        # Asked now: a service that gives fewer would say so after the first rollouts.
        prompt = student.tokenizer.encode("one two three", add_special_tokens=False)
        teacher.likeliest([Scored(prompt[:1], prompt[1:])], student.top_k)
    return teacher


def _check_tokenizer(spec: TeacherSpec, student: Student, tokenizer: Any) -> None:
    """Check that both have the same tokens by the same ids, and cut a text alike."""
    theirs, ours = tokenizer.get_vocab(), student.tokenizer.get_vocab()
    field = f"teacher {spec}: tokenizer"
    if theirs != ours:
        token = min(theirs.items() ^ ours.items(), key=lambda item: (item[1], item[0]))[0]
        raise invalid(
            field,
            f"{len(theirs)} tokens, {token!r} as {theirs.get(token)}",
            f"that of the student {student.model_name}, {len(ours)} tokens, {token!r} as {ours.get(token)}: both are "
            "compared token by token; a teacher with another tokenizer can teach by text, see prompt_distillation",
        )
    if tokenizer.encode(_PROBE, add_special_tokens=False) != student.tokenizer.encode(_PROBE, add_special_tokens=False):
        raise invalid(
            field, "the same tokens, cut otherwise", f"one that cuts texts as that of the student {student.model_name}"
        )


def _context_length(service: ServiceClient, model_name: str) -> int:
    listed = {model.model_name: model.max_context_length for model in service.list_models()}
    found = listed.get(model_name) or get_model_attributes(model_name).context_length
    if not found:
        raise invalid("max_trajectory_tokens", None, f"a number: nobody knows how much {model_name} reads")
    return found
