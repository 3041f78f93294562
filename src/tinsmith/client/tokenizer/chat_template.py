"""Chat templates: Jinja in a sandbox, with the helpers that published templates call."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tinsmith.types.errors import UserError


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


def render(template: str, messages: list[Mapping[str, Any]], **variables: Any) -> str:
    """Return a conversation as the template writes it.

    Raises:
        UserError: the template is malformed, or refuses the conversation.
    """
    try:
        return _compile(template)(messages=messages, **variables)
    except TemplateError as error:
        raise UserError(f"chat template: {error}") from error
