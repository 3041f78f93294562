"""What a client asks for, and what must come of it however often, in whatever order and through whatever losses."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

from tests.reliability.hand_host import mark
from tests.support.fakes.fake_engine import Weights, fake_token


class Reference:
    """One model, each operation applied once and in order. This is the whole specification."""

    def __init__(self) -> None:
        self.weights: Weights = ()
        self.gradients: tuple[int, ...] = ()
        self.broken = False

    def backward(self, tokens: tuple[int, ...]) -> float:
        marks = [mark(self.weights, self.gradients + tokens[:i], token) for i, token in enumerate(tokens)]
        self.gradients += tokens
        return sum(marks)

    def forward(self, tokens: tuple[int, ...]) -> float:
        return sum(mark(self.weights, self.gradients, token) for token in tokens)

    def step(self) -> float | None:
        """Step; None where it must fail, because a forward_backward before it has."""
        broken, gradients = self.broken, self.gradients
        self.broken, self.gradients = False, ()
        if broken:
            return None
        self.weights = (*self.weights, gradients)
        return mark(self.weights, ())

    def load(self, weights: Weights) -> None:
        self.weights, self.gradients, self.broken = weights, (), False


def drawn(weights: Weights | None, seed: int | None, request_id: str, length: int) -> list[int]:
    """Return what a sample must draw; without a seed that follows from its id, which outlives every loss."""
    if seed is None:
        seed = int.from_bytes(hashlib.sha256(request_id.encode()).digest()[:7], "big")
    return [fake_token(weights, seed, position) for position in range(length)]


@dataclass
class Run:
    """A training run as its client knows it.

    Attributes:
        states: what an observer of the engine may see: weights and gradients after each row of its program.
        seq: the last number that was given.
        over: its session has ended.
    """

    tenant: int
    model_id: str
    creation: Asked
    reference: Reference = field(default_factory=Reference)
    states: set[tuple[Weights, tuple[int, ...]]] = field(default_factory=set)
    seq: int = 0
    over: bool = False

    def seen(self) -> None:
        """Note a state that the engine may be in."""
        self.states.add((self.reference.weights, self.reference.gradients))


@dataclass
class Sampler:
    """A sampling session as its client knows it.

    Attributes:
        over: it was closed, or its session has ended.
        lingers: the service may not know of its close.
    """

    tenant: int
    sampler_id: str
    weights: Weights | None
    origin: Asked | None
    seq: int = -1
    over: bool = False
    lingers: bool = False


@dataclass
class Asked:
    """One request of a client.

    Attributes:
        expected: what its future must hold; None where it must fail by the client's fault.
        accepted_first: requests that the service must have taken before this one is sent.
        answered_first: requests whose outcome the client waits for before it sends this one.
        request_id: of its future; None until an answer came through.
        outcome: what the future held when it was first read.
        may_fail: its session has ended, or its sampler.
        dropped: its client sends it no more.
    """

    tenant: int
    kind: str
    path: str
    body: dict[str, Any] | bytes = field(repr=False)
    expected: dict[str, Any] | None
    accepted_first: list[Asked] = field(default_factory=list, repr=False)
    answered_first: list[Asked] = field(default_factory=list, repr=False)
    request_id: str | None = None
    outcome: Any = None
    may_fail: bool = False
    dropped: bool = False

    @property
    def may_be_sent(self) -> bool:
        """Whether what it needs is there."""
        return all(first.request_id is not None for first in self.accepted_first) and all(
            first.outcome is not None for first in self.answered_first
        )

    def check(self, found: dict[str, Any]) -> None:
        """Compare an outcome with what it must be."""
        if "error" in found and self.may_fail:
            return
        if self.expected is None:
            assert found.get("category") == "user", f"{self}: expected to fail by the client's fault, got {found}"
        else:
            expected = self.expected
            if self.kind == "sample":
                expected = {"tokens": [drawn(request_id=self.request_id or "", **expected)]}
            assert expected.items() <= found.items(), f"{self}: got {found}"


@dataclass
class Saved:
    """A checkpoint that was asked for."""

    path: str
    kind: str
    asked: Asked
    weights: Weights
    run: Run
