"""The `*_async` twins of the SDK's methods, derived, so that an operation has one signature and one docstring.

There are two kinds, because the surface that people know has two. A training client's twin gives the future of what it
submitted: `future = await client.forward_backward_async(...)`. Any other client's twin gives the result itself.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, TypeVar

from tinsmith.client.transport.futures import APIFuture

S = TypeVar("S")
P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")


def submitting(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], Coroutine[Any, Any, R]]:
    """Return the twin of a method that submits: a coroutine function that gives the same future."""
    name = method.__name__

    async def twin(self: S, *args: P.args, **kwargs: P.kwargs) -> R:
        # Looked up by name, so that a subclass that replaces the method has replaced its twin, too.
        return getattr(self, name)(*args, **kwargs)

    return _dressed(twin, method, _annotation(method))


def awaiting(method: Callable[Concatenate[S, P], APIFuture[T]]) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]:
    """Return the twin of a method that submits: a coroutine function that gives the result."""
    name = method.__name__

    async def twin(self: S, *args: P.args, **kwargs: P.kwargs) -> T:
        return await getattr(self, name)(*args, **kwargs)

    # What comes of awaiting an `APIFuture[X]` is an X; a client is the future of itself, and keeps its name.
    annotation = _annotation(method)
    result = annotation.removeprefix("APIFuture[")
    return _dressed(twin, method, result.removesuffix("]") if result != annotation else annotation)


def _annotation(method: Callable[..., Any]) -> str:
    # A text and no type: every module of the SDK has `from __future__ import annotations`.
    return method.__annotations__["return"]


def _dressed(twin: Callable[..., Any], method: Callable[..., Any], returns: str) -> Callable[..., Any]:
    """Give a twin what `help()` and editors show: the method's parameters, its docstring, and what awaiting gives."""
    # Wrapped, because `typing.get_type_hints` reads annotations by the names of the module of what is wrapped: those of
    # the method mean nothing in this one.
    functools.update_wrapper(twin, method)
    twin.__name__ = f"{method.__name__}_async"
    twin.__qualname__ = f"{method.__qualname__}_async"
    twin.__doc__ = f"Asynchronous twin of `{method.__name__}`: {method.__doc__}"
    twin.__annotations__ = {**method.__annotations__, "return": returns}
    twin.__signature__ = inspect.signature(method).replace(return_annotation=returns)
    return twin
