"""Inspect AI's model interface over a sampling client: models named `tinsmith/...`.

Importing this module registers the provider. It needs the package `inspect-ai`.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    GenerateConfig,
    Logprob,
    Logprobs,
    ModelAPI,
    ModelOutput,
    ModelUsage,
    TopLogprob,
    modelapi,
)
from inspect_ai.model import StopReason as InspectStopReason
from inspect_ai.tool import ToolChoice, ToolInfo

import tinsmith
from tinsmith.cookbook.eval.inspect_messages import from_inspect, to_inspect, tool_specs
from tinsmith.cookbook.model_info import renderer_of
from tinsmith.cookbook.renderers import ParsedResponse, Renderer
from tinsmith.types.errors import invalid
from tinsmith.types.names.paths import CheckpointPath
from tinsmith.types.outputs import SampledSequence

# Settings that shape an answer and that the service does not have.
_REFUSED = (
    "best_of",
    "frequency_penalty",
    "presence_penalty",
    "logit_bias",
    "prompt_logprobs",
    "parallel_tool_calls",
    "verbosity",
    "effort",
    "reasoning_effort",
    "reasoning_mode",
    "reasoning_tokens",
    "reasoning_summary",
    "response_schema",
    "extra_headers",
    "extra_body",
    "modalities",
)
PROVIDER = "tinsmith"
# Enough to fill a batch of the service; more would only wait there.
_CONNECTIONS = 64


class _Opened(NamedTuple):
    client: tinsmith.SamplingClient
    renderer: Renderer
    tokenizer: Any

    def stops(self, more: Sequence[str] | None) -> Sequence[int | str]:
        """Return what ends a turn: the renderer's own stops, and those of a task beside them."""
        own = self.renderer.get_stop_sequences()
        if not more:
            return own
        # The service takes ids or texts, not both; a control token counts with its text.
        return [*(stop if isinstance(stop, str) else self.tokenizer.decode([stop]) for stop in own), *more]


@modelapi(name=PROVIDER)
class TinsmithAPI(ModelAPI):
    """`tinsmith/MODEL` is a base model, `tinsmith/tinker://...` saved weights.

    Prompts come from the model's renderer, so that a task sees the format that the model was tuned in. Settings of
    sampling that the service does not have are refused. Requests with a seed draw from `seed`, and the n-th request of
    the same prompt from `seed + n`: epochs of a task differ from one another, and a second run equals the first.

    Args:
        model_name: what follows `tinsmith/`.
        base_url: the service; None takes `TINSMITH_BASE_URL`, else the embedded one.
        api_key: not used; the service's key is in `TINSMITH_API_KEY`.
        config: Inspect's settings of generation.
        renderer_name: chat format; None takes the model's own.
        sampling_client: an open client, in place of one made by name.
        renderer: a renderer, in place of one found by name.
    """

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008, the interface's own default
        renderer_name: str | None = None,
        sampling_client: tinsmith.SamplingClient | None = None,
        renderer: Renderer | None = None,
    ) -> None:
        super().__init__(model_name=model_name, base_url=base_url, api_key=api_key, config=config)
        self._renderer_name = renderer_name
        self._given = (sampling_client, renderer)
        self._opened: _Opened | None = None
        self._opening = threading.Lock()
        self._asked: Counter[tuple[int, ...]] = Counter()

    async def generate(
        self, input: list[ChatMessage], tools: list[ToolInfo], tool_choice: ToolChoice, config: GenerateConfig
    ) -> ModelOutput:
        """Sample answers to a conversation.

        Raises:
            UserError: a setting, a message or a tool choice that cannot be honoured; the message names it.
        """
        started = time.perf_counter()
        _refuse(config, tool_choice, tools)
        specs = tool_specs(tools) if tools and tool_choice != "none" else None
        # Opening waits for the service, and this is Inspect's event loop: not in the way of its other tasks.
        opened = await asyncio.to_thread(self._open)
        messages = [from_inspect(message, opened.renderer) for message in input]
        prompt = opened.renderer.build_generation_prompt(messages, tools=specs)
        sampled = await opened.client.sample_async(
            prompt,
            num_samples=config.num_choices or 1,
            sampling_params=self._params(config, opened.stops(config.stop_seqs), tuple(prompt.to_ints())),
            topk_sample_logprobs=config.top_logprobs or 0,
        )
        choices = [self._choice(sequence, config, opened) for sequence in sampled.sequences]
        output_tokens = sum(len(sequence.tokens) for sequence in sampled.sequences)
        return ModelOutput(
            model=self.model_name,
            choices=choices,
            usage=ModelUsage(
                input_tokens=prompt.length, output_tokens=output_tokens, total_tokens=prompt.length + output_tokens
            ),
            time=time.perf_counter() - started,
        )

    def max_connections(self) -> int:
        """Requests in flight; the service batches them."""
        return _CONNECTIONS

    def _open(self) -> _Opened:
        """Open client and renderer at the first request: Inspect makes providers that it only asks for a name."""
        with self._opening:
            if self._opened is None:
                client, renderer = self._given
                client = client or _open_client(self.model_name, self.base_url)
                tokenizer = client.get_tokenizer()
                if renderer is None:
                    renderer = renderer_of(client.get_base_model(), tokenizer, self._renderer_name)
                self._opened = _Opened(client, renderer, tokenizer)
            return self._opened

    def _params(
        self, config: GenerateConfig, stop: Sequence[int | str], prompt: tuple[int, ...]
    ) -> tinsmith.SamplingParams:
        given: dict[str, Any] = {
            "max_tokens": config.max_tokens,
            "temperature": config.temperature,
            "top_p": config.top_p,
            "top_k": config.top_k,
        }
        if config.seed is not None:
            # Otherwise all epochs of a sample would draw the same answer.
            given["seed"] = config.seed + self._asked[prompt]
            self._asked[prompt] += 1
        return tinsmith.SamplingParams(stop=stop, **{key: value for key, value in given.items() if value is not None})

    def _choice(self, sequence: SampledSequence, config: GenerateConfig, opened: _Opened) -> ChatCompletionChoice:
        parsed = opened.renderer.parse_response(sequence.tokens)
        logprobs = _logprobs(sequence, opened.tokenizer) if config.logprobs or config.top_logprobs else None
        return ChatCompletionChoice(
            message=to_inspect(parsed, sequence.tokens, config.stop_seqs or [], self.model_name),
            stop_reason=_stop_reason(sequence, parsed, config),
            logprobs=logprobs,
        )


def _open_client(model_name: str, base_url: str | None) -> tinsmith.SamplingClient:
    service = tinsmith.ServiceClient(base_url=base_url)
    if model_name.startswith("tinker://"):
        CheckpointPath.parse(model_name, "model")
        return service.create_sampling_client(model_path=model_name)
    return service.create_sampling_client(base_model=model_name)


def _logprobs(sequence: SampledSequence, tokenizer: Any) -> Logprobs:
    table = sequence.topk_logprobs_np
    tops = table.rows() if table is not None else [None] * len(sequence.tokens)
    found = []
    for token, logprob, top in zip(sequence.tokens, sequence.logprobs or [], tops, strict=True):
        likeliest = [TopLogprob(token=tokenizer.decode([t]), logprob=value) for t, value in top or []]
        found.append(Logprob(token=tokenizer.decode([token]), logprob=logprob, top_logprobs=likeliest or None))
    return Logprobs(content=found)


def _refuse(config: GenerateConfig, tool_choice: ToolChoice, tools: list[ToolInfo]) -> None:
    for name in _REFUSED:
        if (value := getattr(config, name, None)) is not None:
            raise invalid(name, value, "none: the service has no such setting")
    if tools and tool_choice not in ("auto", "none"):
        raise invalid("tool_choice", tool_choice, "'auto' or 'none': a call cannot be forced")


def _stop_reason(sequence: SampledSequence, parsed: ParsedResponse, config: GenerateConfig) -> InspectStopReason:
    if parsed.message.get("tool_calls"):
        return "tool_calls"
    if sequence.stop_reason == "stop":
        return "stop"
    # The service says only that the length was reached; whose limit it was, the number of tokens tells.
    return "max_tokens" if len(sequence.tokens) == config.max_tokens else "model_length"
