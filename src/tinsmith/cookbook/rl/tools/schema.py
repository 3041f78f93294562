"""What a function takes, as a JSON schema that a model reads and a check of what it gives."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from docstring_parser import ParseError, parse
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.errors import PydanticUserError
from pydantic.fields import FieldInfo

from tinsmith.types.errors import invalid

# Of a wrong argument as an error shows it: a model that gave a page must not be shown it again.
_SHOWN = 80


class BadArgumentsError(Exception):
    """A call's arguments do not fit; the text is for whoever made the call."""


class ArgumentsSchema:
    """The arguments of a function.

    Args:
        function: its parameters need annotations; `self` is left out.

    Attributes:
        summary: what the docstring says the function does; empty where it says nothing.
        json_schema: of an object with the arguments.

    Raises:
        UserError: a parameter cannot be given by name, has no type or one that JSON cannot say, or the docstring
            speaks of one that is not there.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._where = getattr(function, "__qualname__", repr(function))
        self.summary, told = self._docstring(function)
        fields = {}
        self._names: dict[str, str] = {}
        for number, (name, annotation, default) in enumerate(self._parameters(function)):
            # Under names of our own: pydantic keeps some for itself (`json`, `copy`, `_x`) that tools may well have.
            self._names[f"a{number}"] = name
            described = _described(annotation) or told.pop(name, None)
            fields[f"a{number}"] = (Annotated[annotation, Field(alias=name, description=described)], default)
        unknown = set(told) - set(self._names.values())
        if unknown:
            raise invalid(f"{self._where}: docstring", sorted(unknown), "parameters that the function has")
        self._model = self._make(fields)
        self.json_schema = self._make_json_schema()

    def check(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return arguments as the function takes them: texts that spell numbers are numbers, objects are models.

        Raises:
            BadArgumentsError: they do not fit; each that does not is named.
        """
        try:
            checked = self._model.model_validate(dict(arguments))
        except ValidationError as error:
            raise BadArgumentsError("; ".join(_told(fault) for fault in error.errors(include_url=False))) from None
        return {name: getattr(checked, field) for field, name in self._names.items()}

    def _docstring(self, function: Callable[..., Any]) -> tuple[str, dict[str, str]]:
        try:
            read = parse(inspect.getdoc(function) or "")
        except ParseError as error:
            raise invalid(f"{self._where}: docstring", str(error), "one that can be read") from None
        told = {param.arg_name: " ".join((param.description or "").split()) for param in read.params}
        return "\n\n".join(part for part in (read.short_description, read.long_description) if part), told

    def _parameters(self, function: Callable[..., Any]) -> list[tuple[str, Any, Any]]:
        try:
            hints = get_type_hints(function, include_extras=True)
        except (NameError, TypeError) as error:
            raise invalid(f"{self._where}: annotations", str(error), "types that are known where it is") from None
        found = []
        for place, parameter in enumerate(inspect.signature(function).parameters.values()):
            name = parameter.name
            if place == 0 and name == "self":
                continue
            if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                raise invalid(f"{self._where}.{name}", str(parameter), "a parameter that is given by its name")
            if name not in hints:
                raise invalid(f"{self._where}.{name}", "no annotation", "a type, which becomes the schema of the tool")
            required = parameter.default is parameter.empty
            found.append((name, hints[name], ... if required else parameter.default))
        return found

    def _make(self, fields: Mapping[str, Any]) -> type[BaseModel]:
        settings = ConfigDict(extra="forbid", arbitrary_types_allowed=False)
        try:
            return create_model("Arguments", __config__=settings, **fields)
        except PydanticUserError as error:
            raise self._no_json(error) from None

    def _make_json_schema(self) -> dict[str, Any]:
        try:
            made = _without_titles(self._model.model_json_schema())
        except PydanticUserError as error:
            raise self._no_json(error) from None
        # As chat templates and the models behind them know it: these keys, in this order.
        known = {"type": "object", "properties": made.get("properties", {}), "required": made.get("required", [])}
        return {**known, "$defs": made["$defs"]} if "$defs" in made else known

    def _no_json(self, error: Exception) -> Exception:
        return invalid(f"{self._where}: annotations", str(error).splitlines()[0], "types that JSON can say")


def _without_titles(schema: Any) -> Any:
    """Return a schema without the titles that pydantic makes of names: they tell a model nothing and cost it tokens."""
    if isinstance(schema, list):
        return [_without_titles(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    kept: dict[str, Any] = {}
    for key, value in schema.items():
        if key in ("properties", "$defs"):
            # Names of others, of which `title` may be one.
            kept[key] = {name: _without_titles(part) for name, part in value.items()}
        elif key in ("default", "const", "enum", "examples"):
            kept[key] = value
        elif key != "title":
            kept[key] = _without_titles(value)
    return kept


def _described(annotation: Any) -> str | None:
    """Return the description in `Annotated[int, "description"]` or `Annotated[int, Field(description=...)]`."""
    if get_origin(annotation) is not Annotated:
        return None
    for note in get_args(annotation)[1:]:
        told = note.description if isinstance(note, FieldInfo) else note
        if isinstance(told, str):
            return told
    return None


def _told(fault: Any) -> str:
    name = ".".join(str(part) for part in fault["loc"]) or "arguments"
    if fault["type"] == "missing":
        return f"{name}: missing"
    if fault["type"] == "extra_forbidden":
        return f"{name}: no such argument"
    given = repr(fault["input"])
    shown = given if len(given) <= _SHOWN else f"{given[:_SHOWN]}…"
    return f"{name}: got {shown}, expected: {fault['msg']}"
