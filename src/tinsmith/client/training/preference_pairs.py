"""The forms in which preference pairs may be passed, and how texts and conversations become datums.

A row is `{"prompt", "chosen", "rejected"}`, as preference data sets have it (further columns are left alone):

- texts: the prompt is encoded as the tokenizer encodes a text (with BOS where it adds one), a completion as it goes on
  from the prompt, and ends with the tokenizer's EOS. No chat template is applied.
- a conversation: `prompt` is a list of messages and each completion a list of messages that goes on from it (or a text,
  which stands for one assistant message). The tokenizer's chat template writes them.

The prompt is encoded by itself, so that both completions of a row have the very same one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from tinsmith.client.tokenizer.tokenizer import Tokenizer
from tinsmith.types.checks.pair_checks import check_even
from tinsmith.types.datum import Datum
from tinsmith.types.errors import UserError, invalid
from tinsmith.types.facts.loss_table import unit_of
from tinsmith.types.preference_pair import PreferencePair, in_turn

TrainingData = Sequence[Datum] | Sequence[PreferencePair] | Sequence[Mapping[str, Any]]
Messages = list[Mapping[str, Any]]

_COMPLETIONS = ("chosen", "rejected")


@dataclass(frozen=True, slots=True)
class PreferenceRow:
    """A row that is still to be rendered; all three are texts, or all three are messages."""

    prompt: str | Messages
    chosen: str | Messages
    rejected: str | Messages


Batch = list[Datum] | list[PreferenceRow]


def read_batch(data: TrainingData, loss_fn: str) -> Batch:
    """Return a batch in the one form that it has: datums in turn, or rows to be rendered.

    Raises:
        UserError: it is empty, forms are mixed, something in it is of none of the forms that the loss takes, datums of
            pairs are odd in number, a row lacks a field or has an empty text, or its completions are equal.
    """
    paired = unit_of(loss_fn) == 2
    if not paired:
        return check_datums(cast("Sequence[Datum]", data))
    batch: list[Any] = list(data)
    form = _form(batch[0]) if batch else Datum
    if form is None:
        raise invalid("data[0]", batch[0], "a Datum, a PreferencePair or a row {prompt, chosen, rejected}")
    for index, one in enumerate(batch):
        if not isinstance(one, form):
            what = "row {prompt, chosen, rejected}" if form is Mapping else form.__name__
            raise invalid(f"data[{index}]", one, f"a {what} as data[0] is one: a batch has one form")
    if form is PreferencePair:
        return in_turn(cast("list[PreferencePair]", batch))
    if form is Datum:
        check_even(batch, loss_fn)
        return check_datums(batch)
    return [_row(f"data[{index}]", row) for index, row in enumerate(batch)]


def check_datums(data: Sequence[Datum]) -> list[Datum]:
    """Return a batch of datums as a list.

    Raises:
        UserError: it is empty, or something in it is no `Datum`.
    """
    batch = list(data)
    if not batch:
        raise invalid("data", "no datums", "at least one Datum")
    for index, datum in enumerate(batch):
        if not isinstance(datum, Datum):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise invalid(f"data[{index}]", datum, "a Datum")
    return batch


def _form(value: object) -> type[Any] | None:
    return next((form for form in (Datum, PreferencePair, Mapping) if isinstance(value, form)), None)


def _row(name: str, row: Mapping[str, Any]) -> PreferenceRow:
    missing = [key for key in ("prompt", *_COMPLETIONS) if row.get(key) is None]
    if missing:
        raise invalid(f"{name}[{missing[0]!r}]", None, "a text or messages: a row has prompt, chosen and rejected")
    prompt: Any = row["prompt"]
    if isinstance(prompt, str):
        texts = [_text(f"{name}[{key!r}]", row[key]) for key in ("prompt", *_COMPLETIONS)]
        found = PreferenceRow(*texts)
    else:
        conversation = _messages(f"{name}['prompt']", prompt)
        found = PreferenceRow(conversation, *(_reply(f"{name}[{key!r}]", row[key]) for key in _COMPLETIONS))
    if found.chosen == found.rejected:
        raise invalid(f"{name}['rejected']", row["rejected"], "another completion than the chosen one")
    return found


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise invalid(name, value, "a text that is not empty, as prompt is a text")
    return value


def _messages(name: str, value: Any) -> Messages:
    messages: list[Any] = list(cast("Sequence[Any]", value)) if isinstance(value, Sequence) else []
    if not messages:
        raise invalid(name, cast("object", value), "a text, or messages with role and content")
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping) or "role" not in message or not _says_something(cast("Any", message)):
            raise invalid(f"{name}[{index}]", cast("object", message), "a message with role and content")
    return messages


def _says_something(message: Mapping[str, Any]) -> bool:
    # An assistant that calls a tool need not say anything beside.
    return bool(message.get("content") or message.get("tool_calls"))


def _reply(name: str, value: Any) -> Messages:
    if isinstance(value, str):
        return [{"role": "assistant", "content": _text(name, value)}]
    return _messages(name, value)


def render(rows: Sequence[PreferenceRow], tokenizer: Tokenizer) -> list[Datum]:
    """Return the datums of rows, chosen and rejected in turn.

    Raises:
        UserError: the tokenizer has no chat template for a conversation, or its template does not write a prompt and
            what follows it one behind the other; or a text has no token.
    """
    data: list[Datum] = []
    for index, row in enumerate(rows):
        for key, completion in zip(_COMPLETIONS, (row.chosen, row.rejected), strict=True):
            try:
                data.append(_datum(*_tokens(row.prompt, completion, tokenizer)))
            except UserError as error:
                raise UserError(f"data[{index}][{key!r}]: {error.message}", error.status) from error
    return data


def _tokens(prompt: str | Messages, completion: str | Messages, tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    if isinstance(prompt, str) or isinstance(completion, str):
        end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        tokens = tokenizer.joints.encode_following(str(prompt), str(completion))
        ahead = tokenizer.begin(tokenizer.encode(str(prompt), add_special_tokens=False))
        return ahead, tokens if tokens[-1:] == end else tokens + end
    ahead = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template([*prompt, *completion], tokenize=False)
    if not whole.startswith(ahead):
        expected = "one that writes prompt and completion one behind the other; render such rows yourself, as datums"
        raise invalid("chat_template", "a template that writes the prompt anew once something follows", expected)
    behind = whole[len(ahead) :]
    # The template has written BOS and the like itself.
    return tokenizer.encode(ahead, add_special_tokens=False), tokenizer.joints.encode_following(ahead, behind)


def _datum(prompt: list[int], completion: list[int]) -> Datum:
    if not prompt or not completion:
        empty = "prompt" if not prompt else "completion"
        raise invalid(f"the {empty}", "a text without a token", "at least one token")
    tokens = [*prompt, *completion]
    weights = [0.0] * (len(prompt) - 1) + [1.0] * len(completion)
    return Datum(model_input=tokens[:-1], loss_fn_inputs={"target_tokens": tokens[1:], "weights": weights})
