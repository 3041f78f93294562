"""`tool`: a function with annotations and a docstring becomes one that a model may call."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from types import MethodType
from typing import Any, overload

from tinsmith.cookbook.renderers.tools import ToolSpec
from tinsmith.cookbook.rl.tools.schema import ArgumentsSchema
from tinsmith.types.errors import invalid

# What chat APIs take for a name.
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Tool:
    """A function that a model may call; made by `tool`.

    Called in Python it is the function that it was. In a class it is a method: `shop.price` is the tool of that `shop`.

    Attributes:
        name: that the model calls it by.
        spec: definition as renderers and chat APIs take it, `{"type": "function", "function": {...}}`.
    """

    def __init__(self, function: Callable[..., Any], name: str | None = None, description: str | None = None) -> None:
        if not inspect.isfunction(function) and not inspect.ismethod(function):
            raise invalid("tool", function, "a function or a method")
        self.name = getattr(function, "__name__", "") if name is None else name
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise invalid("tool: name", self.name, "1 to 64 letters, digits, _ and -")
        self._function = function
        self._arguments = ArgumentsSchema(function)
        told = description or self._arguments.summary
        if not told:
            raise invalid(f"tool {self.name}: description", told, "a docstring, by which a model knows what it is for")
        parameters = self._arguments.json_schema
        self.spec: ToolSpec = {
            "type": "function",
            "function": {"name": self.name, "description": told, "parameters": parameters},
        }
        self.__doc__ = function.__doc__
        self.__wrapped__ = function

    def __repr__(self) -> str:
        return f"Tool({self.name})"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)

    def __get__(self, instance: object, owner: type | None = None) -> Tool:
        if instance is None:
            return self
        # No copy of the function's schema, which is the same for all objects of the class.
        bound = object.__new__(Tool)
        bound.__dict__.update(self.__dict__, _function=MethodType(self._function, instance))
        return bound

    @property
    def is_async(self) -> bool:
        """Whether calling it gives a coroutine."""
        return inspect.iscoroutinefunction(self._function)

    def prepare(self, arguments: Mapping[str, Any]) -> Callable[[], Any]:
        """Return the call of the function with the arguments that a model gave.

        Raises:
            BadArgumentsError: they do not fit.
        """
        checked = self._arguments.check(arguments)
        return lambda: self._function(**checked)

    def needs_object(self) -> bool:
        """Whether it is a method that nobody has taken from an object yet."""
        return next(iter(inspect.signature(self._function).parameters), None) == "self"


@overload
def tool(function: Callable[..., Any], /) -> Tool: ...


@overload
def tool(*, name: str | None = None, description: str | None = None) -> Callable[[Callable[..., Any]], Tool]: ...


def tool(
    function: Callable[..., Any] | None = None, /, *, name: str | None = None, description: str | None = None
) -> Any:
    """Declare a function or method, plain or `async`, as a tool.

        @tool
        def price(item: str, currency: Literal["EUR", "USD"] = "EUR") -> str:
            \"""Price of an item.

            Args:
                item: its name.
            \"""

    The docstring (Google, NumPy or reST style) is the description, and describes the parameters;
    `Annotated[str, "its name"]` does so, too. Types become the schema by pydantic, and what a model gives is checked
    by them.

    Args:
        function: the function.
        name: that the model calls it by; None takes the function's.
        description: None takes the docstring's.

    Raises:
        UserError: there is no description, or a parameter cannot be a tool's.
    """
    if function is None:
        return lambda given: Tool(given, name, description)
    return Tool(function, name, description)
