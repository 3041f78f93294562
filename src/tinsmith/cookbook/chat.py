"""A conversation with a model or a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import tinsmith
from tinsmith.cookbook.completers import Completer
from tinsmith.cookbook.renderers import Message, Renderer, get_text_content
from tinsmith.cookbook.renderers.tools import check_tools
from tinsmith.types.errors import UserError, invalid
from tinsmith.types.names.checkpoint_files import ADAPTER_CONFIG


@dataclass
class Chat:
    """Keeps what was said and asks for the next answer.

    Attributes:
        sampler: who answers.
        renderer: of the sampler's model.
        params: how answers are sampled.
        messages: the conversation so far.
        tools: that the model may call.
    """

    sampler: tinsmith.SamplingClient
    renderer: Renderer
    params: tinsmith.SamplingParams
    messages: list[Message] = field(default_factory=list)
    tools: Sequence[Mapping[str, Any]] = ()

    @classmethod
    def open(
        cls,
        *,
        model_path: str | None = None,
        base_model: str | None = None,
        base_url: str | None = None,
        renderer_name: str | None = None,
        temperature: float = 0.7,
        max_tokens: int | None = None,
        system: str | None = None,
    ) -> Self:
        """Begin a conversation.

        Args:
            model_path: saved weights, `tinker://...`; or
            base_model: a model's name or folder.
            base_url: the service; None takes `TINSMITH_BASE_URL`, else the embedded one.
            renderer_name: chat format; None takes the model's own.
            temperature: 0 is greedy.
            max_tokens: longest answer; None goes up to the context.
            system: a system message to begin with.

        Raises:
            UserError: `base_model` is the folder of an adapter.
            TinsmithError: there is no such model or checkpoint.
        """
        _check_no_adapter(base_model)
        service = tinsmith.ServiceClient(base_url=base_url)
        opened = Completer.open(service, base_model=base_model, model_path=model_path, renderer_name=renderer_name)
        # No seed: somebody who asks twice wants to hear something else.
        params = tinsmith.SamplingParams(
            temperature=temperature, max_tokens=max_tokens, stop=opened.renderer.get_stop_sequences()
        )
        messages: list[Message] = [] if system is None else [{"role": "system", "content": system}]
        return cls(opened.sampler, opened.renderer, params, messages)

    @property
    def system(self) -> str | None:
        """The system message, as long as there is one; setting it keeps the rest of the conversation."""
        first = self.messages[0] if self.messages else None
        return str(first["content"]) if first is not None and first["role"] == "system" else None

    @system.setter
    def system(self, text: str | None) -> None:
        rest = self.messages[0 if self.system is None else 1 :]
        self.messages = [*([] if text is None else [Message(role="system", content=text)]), *rest]

    @property
    def temperature(self) -> float:
        """How answers are drawn; 0 is greedy."""
        return self.params.temperature

    @temperature.setter
    def temperature(self, value: float) -> None:
        self.params = tinsmith.SamplingParams(**{**self.params.model_dump(), "temperature": value})

    def reset(self) -> None:
        """Forget what was said; the system message and the tools stay."""
        system = self.system
        self.messages = []
        self.system = system

    def use_tools(self, file: Path) -> list[str]:
        """Let the model call the tools of a JSON file, a list of function definitions; return their names.

        Raises:
            UserError: the file cannot be read, a definition is not well formed, or the chat format has no place for it.
        """
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise invalid("tools", str(file), f"a JSON file that can be read ({error.strerror})") from error
        except ValueError as error:
            raise invalid("tools", str(file), f"JSON: a list of function definitions ({error})") from error
        tools = check_tools(found)
        # Rendered once, as a format may ask for more than the definition of a tool does.
        self.renderer.build_generation_prompt([{"role": "user", "content": "?"}], tools=tools)
        self.tools = tools
        return [str(tool["function"]["name"]) for tool in self.tools]

    def save(self, file: Path) -> None:
        """Append the conversation to a JSONL file, as a row that can be trained on.

        Raises:
            UserError: the file cannot be written.
        """
        messages = [{key: value for key, value in message.items() if key != "tokens"} for message in self.messages]
        row = {"messages": messages, **({"tools": list(self.tools)} if self.tools else {})}
        try:
            with file.open("a", encoding="utf-8") as rows:
                rows.write(json.dumps(row, ensure_ascii=False) + "\n")
        except OSError as error:
            raise invalid("file", str(file), f"one that can be written ({error.strerror})") from error

    def say(self, text: str) -> str:
        """Add a message of the user's, and return the answer, which becomes part of the conversation."""
        return get_text_content(self.add({"role": "user", "content": text}))

    def add(self, *messages: Message) -> Message:
        """Add messages, the user's or the results of tools, and return the answer, which is added too.

        Where no answer comes, because of an error or an interruption, the conversation stays as it was.

        Raises:
            UserError: the chat format has no place for the messages, or for the tools.
            TinsmithError: the service failed.
        """
        asked = [*self.messages, *messages]
        prompt = self.renderer.build_generation_prompt(asked, tools=self.tools or None)
        sampled = self.sampler.sample(prompt, num_samples=1, sampling_params=self.params).result().sequences[0]
        answer = self.renderer.parse_response(sampled.tokens).message
        # The parsed message has its sampled ids, which go back into the next prompt as they are: encoding the text anew
        # could give others.
        self.messages = [*asked, answer]
        return answer


def _check_no_adapter(base_model: str | None) -> None:
    config = Path(base_model or "") / ADAPTER_CONFIG
    if base_model is None or not config.is_file():
        return
    try:
        base = json.loads(config.read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError):
        base = None  # the import will say what is wrong with it
    raise UserError(
        f"model: got {base_model!r}, a PEFT adapter; import it first, then chat with the address that this prints: "
        f"tinsmith checkpoint import {base_model} --base-model {base or 'NAME'}"
    )
