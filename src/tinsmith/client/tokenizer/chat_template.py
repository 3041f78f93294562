"""Chat templates: Jinja in a sandbox, with the helpers that published templates call."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn, cast

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tinsmith.types.errors import UserError, invalid

# Stands where a message that is to go on breaks off. The blank tells whether the template trims.
_BREAK = "TINSMITH_BREAKS_OFF "


class _Generation(Extension):
    """`{% generation %}...{% endgeneration %}` marks what an assistant said; it is written as it stands."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        """Read the block and keep its contents."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes for HTML, which no model was trained on.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


# Compiling costs far more than rendering, and a run renders one template over and over.
@lru_cache(maxsize=64)
def _compile(template: str) -> Callable[..., str]:
    # A template comes with a checkpoint, from anybody: it may compute a text and nothing else. The trimming is that of
    # `transformers`, which published templates are written for.
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson  # pyright: ignore[reportUnknownMemberType]
    helpers = {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
    return environment.from_string(template, globals=helpers).render


def render(template: str, messages: Sequence[Mapping[str, Any]], **variables: Any) -> str:
    """Return a conversation as the template writes it.

    Raises:
        UserError: the template is malformed, or refuses the conversation.
    """
    try:
        return _compile(template)(messages=list(messages), **variables)
    # What a template does with fields of another kind than it expects is Python's to refuse.
    except (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        raise UserError(f"chat template: {error}") from error


def render_open(template: str, messages: Sequence[Mapping[str, Any]], field: str, **variables: Any) -> str:
    """Return a conversation whose last message breaks off, to be gone on with.

    Args:
        template: the template.
        messages: the conversation.
        field: of the last message; nothing of what the template writes behind it is there.
        variables: of the template.

    Raises:
        UserError: as `render`; or the last message has no such text, or the template leaves it out.
    """
    chat = [dict(message) for message in deepcopy(list(messages))]
    said = _break_off(chat[-1], field)
    whole = render(template, chat, **variables)
    place = whole.rfind(_BREAK.strip())
    if place < 0 or said.strip() not in whole:
        raise invalid(f"messages[{len(chat) - 1}].{field}", said, "a text that the chat template writes as it stands")
    text = whole[:place]
    # Where the template has trimmed the blank away, it trims the message too.
    return text if whole.startswith(_BREAK, place) else text.rstrip()


def _break_off(message: dict[str, Any], field: str) -> str:
    """Put the mark behind the last text of a message, and return that text."""
    value = message.get(field)
    if isinstance(value, str):
        message[field] = value + _BREAK
        return value
    parts = cast("list[dict[str, Any]]", value) if isinstance(value, list) else []
    for part in reversed(parts):
        if isinstance(part.get("text"), str):
            said = part["text"]
            part["text"] = said + _BREAK
            return said
    raise invalid(f"continue_final_message: {field}", cast("Any", value), "a text of the last message to go on with")
