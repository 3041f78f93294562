"""Tool definitions as TypeScript, the way in which the format of gpt-oss shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tinsmith.cookbook.renderers.tools import ToolSpec, to_json

_PLAIN = {"number": "number", "integer": "number", "boolean": "boolean"}
_ITEMS = {"string": "string[]", **{kind: f"{name}[]" for kind, name in _PLAIN.items()}}
# Types of items longer than this are shown as `any[]`.
_LONGEST_ITEM = 50
# Blanks of the template's own source that reach its text.
_BEFORE_TYPE = "\n" + " " * 16
_BEFORE_DEFAULT = " " * 20


def show_tools(tools: Sequence[ToolSpec]) -> str:
    """Return the section of a developer message that declares functions."""
    shown = "".join(_function(tool["function"]) for tool in tools)
    return f"## functions\n\nnamespace functions {{\n\n{shown}}} // namespace functions"


def _function(function: Mapping[str, Any]) -> str:
    parameters = function.get("parameters") or {}
    begin = f"// {function['description']}\ntype {function['name']} = "
    if not parameters.get("properties"):
        return f"{begin}() => any;\n\n"
    required = parameters.get("required") or []
    lines = "".join(_parameter(name, spec, name in required) for name, spec in parameters["properties"].items())
    return f"{begin}(_: {{\n{lines}}}) => any;\n\n"


def _parameter(name: str, spec: Any, required: bool) -> str:
    spec = spec if isinstance(spec, Mapping) else {}
    comment = f"// {spec['description']}\n" if spec.get("description") else ""
    return f"{comment}{name}{'' if required else '?'}: {show_type(spec)}{_default(spec)},\n"


def _default(spec: Mapping[str, Any]) -> str:
    if "default" not in spec:
        return ""
    if spec.get("enum"):
        return f", // default: {spec['default']}"
    if spec.get("oneOf"):
        return f"// default: {spec['default']}"
    return f", // default: {to_json(spec['default'])}"


def show_type(spec: Any) -> str:
    """Return a JSON schema as a type; what the format has no words for is `any`."""
    if not isinstance(spec, Mapping):
        return "any"
    kind = spec.get("type")
    if kind == "array":
        return _array(spec)
    if isinstance(kind, list | tuple) and kind:
        return " | ".join(map(str, kind))
    if spec.get("oneOf"):
        return _union(spec["oneOf"])
    if kind == "string":
        if spec.get("enum"):
            return '"' + '" | "'.join(map(str, spec["enum"])) + '"'
        return "string | null" if spec.get("nullable") else "string"
    if kind == "object":
        return _object(spec)
    return _PLAIN.get(str(kind), "any")


def _array(spec: Mapping[str, Any]) -> str:
    null = " | null" if spec.get("nullable") else ""
    items = spec.get("items")
    if not items or not isinstance(items, Mapping):
        return f"any[]{null}"
    plain = _ITEMS.get(str(items.get("type")))
    if plain is not None:
        return plain + null
    inner = show_type(items)
    unclear = inner == "object | object" or len(inner) > _LONGEST_ITEM
    return ("any[]" if unclear else f"{inner}[]") + null


def _union(variants: Sequence[Any]) -> str:
    shown: list[str] = []
    for variant in variants:
        if not isinstance(variant, Mapping):
            shown.append("any")
            continue
        comment = f"// {variant['description']}" if variant.get("description") else ""
        default = f"{_BEFORE_DEFAULT}// default: {to_json(variant['default'])}" if "default" in variant else ""
        shown.append(f"{show_type(variant)}{comment}{default}")
    return " | \n".join(shown)


def _object(spec: Mapping[str, Any]) -> str:
    properties = spec.get("properties")
    if not properties:
        return "object"
    required = spec.get("required") or []
    fields = [
        f"{name}{'' if name in required else '?'}: {_BEFORE_TYPE}{show_type(inner)}"
        for name, inner in properties.items()
    ]
    return "{\n" + ", ".join(fields) + "}"
