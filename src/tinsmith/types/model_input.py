"""`ModelInput`: the tokens that a model reads, as a list of chunks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from tinsmith.types.errors import invalid


class EncodedTextChunk(BaseModel):
    """A run of text tokens."""

    model_config = ConfigDict(frozen=True)

    tokens: Sequence[int]
    type: Literal["encoded_text"] = "encoded_text"

    @property
    def length(self) -> int:
        """Number of tokens."""
        return len(self.tokens)


ModelInputChunk = EncodedTextChunk


class ModelInput(BaseModel):
    """A model's input. Models here read text; other chunks are refused by name."""

    model_config = ConfigDict(frozen=True)

    chunks: list[EncodedTextChunk]

    @classmethod
    def from_ints(cls, tokens: Sequence[int]) -> ModelInput:
        """Make an input of token ids; arrays and tensors are accepted."""
        return cls(chunks=[EncodedTextChunk(tokens=_int_list(tokens))])

    @classmethod
    def empty(cls) -> ModelInput:
        """Make an input of no tokens."""
        return cls(chunks=[])

    def append(self, chunk: EncodedTextChunk) -> ModelInput:
        """Return a new input with `chunk` at the end."""
        return ModelInput(chunks=[*self.chunks, chunk])

    def append_int(self, token: int) -> ModelInput:
        """Return a new input with one token at the end."""
        return self.append(EncodedTextChunk(tokens=[int(token)]))

    def to_ints(self) -> list[int]:
        """Return all token ids."""
        return [token for chunk in self.chunks for token in chunk.tokens]

    @property
    def length(self) -> int:
        """Number of tokens."""
        return sum(chunk.length for chunk in self.chunks)


def _int_list(values: Any) -> list[int]:
    if hasattr(values, "tolist"):
        values = values.tolist()
    tokens = list(values)
    # Almost always ints already: one exact comparison each, and the slow way for the few that are not.
    for index, token in enumerate(tokens):
        if type(token) is not int:
            tokens[index] = _as_int(token, index)
    return tokens


def _as_int(token: Any, index: int) -> int:
    """Return the whole number that an element of a list is: lists made of arrays hold numpy's or torch's own."""
    number: Any = token.item() if hasattr(token, "item") else token
    if isinstance(number, bool) or not isinstance(number, int):
        raise invalid(f"tokens[{index}]", number, "a whole number")
    return number
