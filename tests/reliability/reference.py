"""What a client asks for, and what must come of it however often, in whatever order and through whatever losses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.reliability.hand_host import mark
from tests.support.fake_engine import Weights


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


@dataclass
class Run:
    """A training run as its client knows it.

    Attributes:
        states: what an observer of the engine may see: weights and gradients after each row of its program.
        seq: the last number that was given.
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
    """A sampling session as its client knows it."""

    tenant: int
    sampler_id: str
    weights: Weights | None
    origin: Asked | None
    seq: int = -1
    over: bool = False


@dataclass
class Asked:
    """One request of a client.

    Attributes:
        expected: what its future must hold; None where it must fail by the client's fault.
        ready: the request that must have been answered, or only accepted, before this one is sent.
        request_id: of its future; None until an answer came through.
        outcome: what the future held when it was first read.
    """

    tenant: int
    kind: str
    path: str
    body: dict[str, Any] | bytes
    expected: dict[str, Any] | None
    ready: Asked | None = None
    ready_when: str = "accepted"
    request_id: str | None = None
    outcome: Any = None
    may_fail: bool = False
    dropped: bool = False

    @property
    def may_be_sent(self) -> bool:
        """Whether what it needs is there."""
        if self.ready is None:
            return True
        return (self.ready.outcome if self.ready_when == "answered" else self.ready.request_id) is not None
