"""Schemas: what a function takes becomes what a model reads, and what it gives is checked by the same types."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from inspect import Parameter, Signature
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field
from transformers.utils import get_json_schema

from tinsmith.cookbook.rl.tools.schema import ArgumentsSchema, BadArgumentsError
from tinsmith.cookbook.rl.tools.tool import Tool, tool
from tinsmith.types.errors import UserError


class Unit(Enum):
    METRIC = "metric"
    IMPERIAL = "imperial"


@dataclass
class Place:
    city: str
    country: str = "France"


class Range(BaseModel):
    """From a day to a day."""

    first: int
    last: Annotated[int, Field(ge=0)]


def forecast(city: str, days: int, exact: bool = True, share: float = 0.5, tags: list[str] = []) -> str:  # noqa: B006
    """Weather of a city.

    Args:
        city: its name,
            as people there spell it
        days: how many
        exact: to the degree
        share: of the sky
        tags: of the answer
    """
    return f"{city} {days} {exact} {share} {tags}"


def test_a_plain_function_is_described_as_transformers_describes_it() -> None:
    spec, expected = Tool(forecast).spec["function"], get_json_schema(forecast)["function"]
    assert spec["name"] == expected["name"]
    assert spec["description"] == expected["description"]
    ours, theirs = spec["parameters"], expected["parameters"]
    assert list(ours) == list(theirs)
    assert ours["required"] == theirs["required"]
    told = {name: {k: v for k, v in each.items() if k != "default"} for name, each in ours["properties"].items()}
    assert told == theirs["properties"]


def test_types_of_all_kinds_become_a_schema_without_titles_and_values_of_those_types() -> None:
    def ask(
        place: Place,
        unit: Unit,
        when: Range,
        kind: Literal["rain", "sun"] = "rain",
        limit: Annotated[int | None, "how many at most"] = None,
        *,
        json: dict[str, int] | None = None,
    ) -> Any:
        """Ask.

        Parameters
        ----------
        unit : Unit
            of length
        """

    schema = ArgumentsSchema(ask)
    made = schema.json_schema
    assert made["required"] == ["place", "unit", "when"]
    assert list(made["properties"]) == ["place", "unit", "when", "kind", "limit", "json"]
    assert made["properties"]["kind"]["enum"] == ["rain", "sun"]
    assert made["properties"]["limit"]["description"] == "how many at most"
    assert made["properties"]["unit"]["description"] == "of length"
    assert made["$defs"]["Range"]["description"] == "From a day to a day."
    assert '"title"' not in json.dumps(made)
    assert list(made["$defs"]["Place"]["properties"]) == ["city", "country"]
    checked = schema.check(
        {"place": {"city": "Lyon"}, "unit": "metric", "when": {"first": 1, "last": "2"}, "json": {"a": 1}}
    )
    assert checked == {
        "place": Place("Lyon"),
        "unit": Unit.METRIC,
        "when": Range(first=1, last=2),
        "kind": "rain",
        "limit": None,
        "json": {"a": 1},
    }


# Each with values that it takes.
_TYPES: dict[Any, st.SearchStrategy[Any]] = {
    int: st.integers(),
    str: st.text(),
    bool: st.booleans(),
    float: st.floats(allow_nan=False, allow_infinity=False),
    list[int]: st.lists(st.integers()),
    dict[str, bool]: st.dictionaries(st.text(), st.booleans()),
    Literal["a", "b"]: st.sampled_from(["a", "b"]),
    int | None: st.none() | st.integers(),
    list[list[str]]: st.lists(st.lists(st.text())),
}
# Names that pydantic keeps for itself are among them.
_names = st.sampled_from(["x", "json", "copy", "model_name", "schema", "_hidden", "größe", "dict", "limit"])


@st.composite
def functions(draw: st.DrawFn) -> tuple[Callable[..., Any], dict[str, Any]]:
    names = draw(st.lists(_names, unique=True, max_size=5))
    types = {name: draw(st.sampled_from(list(_TYPES))) for name in names}
    required = draw(st.integers(0, len(names)))
    parameters = [
        Parameter(
            name,
            Parameter.POSITIONAL_OR_KEYWORD,
            annotation=types[name],
            default=Parameter.empty if place < required else draw(_TYPES[types[name]]),
        )
        for place, name in enumerate(names)
    ]

    def function(**given: Any) -> dict[str, Any]:
        return given

    function.__signature__ = Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]
    function.__annotations__ = types
    return function, {name: draw(_TYPES[types[name]]) for name in names}


@given(functions(), st.data())
def test_what_fits_the_types_is_taken_and_what_does_not_is_named(
    drawn: tuple[Callable[..., Any], dict[str, Any]], data: st.DataObject
) -> None:
    function, values = drawn
    made = Tool(function, "f", "does it")
    parameters = made.spec["function"]["parameters"]
    assert set(parameters["properties"]) == set(values)
    json.dumps(made.spec)
    sent = json.loads(json.dumps(values))
    assert made.prepare(sent)() == values
    with pytest.raises(BadArgumentsError, match=r"^zz: no such argument$"):
        made.prepare({**sent, "zz": 1})
    if parameters["required"]:
        left_out = data.draw(st.sampled_from(parameters["required"]))
        with pytest.raises(BadArgumentsError, match=f"^{left_out}: missing$"):
            made.prepare({name: value for name, value in sent.items() if name != left_out})
    if values:
        wrong = data.draw(st.sampled_from(sorted(values)))
        with pytest.raises(BadArgumentsError, match=rf"^{wrong}(\.int|\.str)?: got <object"):
            made.prepare({**sent, wrong: object()})


def test_a_page_that_was_given_by_mistake_is_not_shown_again() -> None:
    with pytest.raises(BadArgumentsError) as caught:
        Tool(forecast).prepare({"city": "x", "days": "many " * 10_000})
    assert str(caught.value).startswith("days: got 'many many")
    assert len(str(caught.value)) < 300


def bare(x):
    """Do."""


def undocumented(x: int) -> None:
    pass


def starred(*x: int) -> None:
    """Do."""


def positional(x: int, /) -> None:
    """Do."""


def unknown(x: Nowhere) -> None:  # noqa: F821  # pyright: ignore[reportUndefinedVariable]
    """Do."""


def no_json(x: Callable[[], int]) -> None:
    """Do."""


def no_type(x: Parameter) -> None:
    """Do."""


def misspelt(x: int) -> None:
    """Do.

    Args:
        y: a number
    """


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (bare, "bare.x: got 'no annotation', expected a type, which becomes the schema of the tool"),
        (undocumented, "tool undocumented: description: got '', expected a docstring"),
        (starred, r"starred.x: got .\*x: .*, expected a parameter that is given by its name"),
        (positional, "positional.x: got .x: .*, expected a parameter that is given by its name"),
        (unknown, "unknown: annotations: got .*Nowhere.*, expected types that are known where it is"),
        (no_json, "no_json: annotations: got .*, expected types that JSON can say"),
        (no_type, "no_type: annotations: got .*, expected types that JSON can say"),
        (misspelt, r"misspelt: docstring: got \['y'\], expected parameters that the function has"),
        (len, "tool: got .*len.*, expected a function or a method"),
        (lambda: 1, "tool: name: got '<lambda>', expected 1 to 64 letters"),
    ],
)
def test_a_function_that_is_no_tool_is_refused(function: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        tool(function)


def test_a_tool_is_still_the_function_and_of_a_class_the_method() -> None:
    class Shop:
        def __init__(self, price: int) -> None:
            self._price = price

        @tool(name="price_of", description="Price of an item.")
        def price(self, item: str) -> str:
            return f"{item}: {self._price}"

    assert tool(forecast)("Rome", 2, share=0.1) == forecast("Rome", 2, share=0.1)
    cheap, dear = Shop(1), Shop(9)
    assert cheap.price("cup") == "cup: 1"
    assert dear.price.prepare({"item": "cup"})() == "cup: 9"
    assert cheap.price.spec == dear.price.spec
    assert cheap.price.spec["function"]["parameters"]["required"] == ["item"]
    assert Shop.price.needs_object()
    assert not cheap.price.needs_object()
