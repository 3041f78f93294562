"""Tools of a conversation as people write them: OpenAI's, its older `functions`, and lists that are JSON texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinsmith.cookbook.rows.formats.json_text import read_json
from tinsmith.types.errors import invalid

_EXPECTED = "a list of tool definitions"


def own_tools(row: Mapping[str, Any]) -> list[Any] | None:
    """Return the tools of a row in OpenAI's form; None where it has none.

    Raises:
        UserError: they are no list, or the row has `functions` beside `tools`.
    """
    tools, functions = row.get("tools"), row.get("functions")
    if tools and functions:
        raise invalid("functions", functions, "none beside tools, the newer name of the same")
    field = "functions" if functions else "tools"
    # A text without anything in it is how tables say that there are none.
    found = read_json((functions or tools) or None, field, _EXPECTED)
    if found is None:
        return None
    if not isinstance(found, list):
        raise invalid(field, found, _EXPECTED)
    return [_tool(tool) for tool in found] or None


def _tool(tool: Any) -> Any:
    # The bare definition of a function: what `functions` hold, and what LLaMA-Factory and Hermes have in `tools`. Of
    # anything else the check says what is wrong with it.
    if isinstance(tool, Mapping) and "name" in tool and "function" not in tool and "type" not in tool:
        return {"type": "function", "function": dict(tool)}
    return tool
