"""What the games share: a conversation that grows, and the search for a secret with a number of turns at most."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from tinsmith.cookbook import rl
from tinsmith.cookbook.renderers import Message
from tinsmith.cookbook.renderers.messages import get_text_content

Messages = list[Message | Mapping[str, Any]]


class GameEnv(rl.MessageEnv):
    """A game as a conversation.

    Args:
        rules: what a system message tells the policy; None for one that knows the game.

    Attributes:
        messages: what was said so far, the policy's turns as they were sampled.
    """

    def __init__(self, rules: str | None) -> None:
        self.messages: Messages = [] if rules is None else [{"role": "system", "content": rules}]

    def tell(self, text: str) -> Messages:
        """Say something to the policy; return the whole conversation, for it to go on."""
        self.messages = [*self.messages, {"role": "user", "content": text}]
        return self.messages

    def answer(self, message: Message, text: str) -> Messages:
        """Answer the policy's turn; return the whole conversation, for it to go on."""
        self.messages = [*self.messages, message]
        return self.tell(text)


class Reply(NamedTuple):
    """What comes of a turn in a search.

    Attributes:
        text: what the policy is told.
        found: whether it named the secret.
        wasted: whether its turn could tell nothing new: it was ruled out before, or not understood.
    """

    text: str
    found: bool = False
    wasted: bool = False


class SearchEnv(GameEnv):
    """A secret to be found with M turns at most.

    Found with turn t it is worth 0.5 + 0.5 (M - t + 1) / M in all. Not found, it is worth 0.5 times how far it was
    narrowed down, so that games that are lost can be compared as well. What a turn narrows down is paid at once, so
    that a turn can be judged for itself (`turn_discount`).

    Args:
        most: M.
        wasted_cost: what a turn costs that could tell nothing new. Games to learn from have a price on it: luck pays
            far more than such a turn misses, and would hide it.
        rules: as in `GameEnv`.
    """

    # What turns are called: the metric of that name is t, and M where the secret was not found.
    turns: ClassVar[str]

    def __init__(self, most: int, *, wasted_cost: float = 0.0, rules: str | None) -> None:
        super().__init__(rules)
        self._wasted_cost = wasted_cost
        self._most = most
        self._taken = 0
        self._wasted = 0
        self._paid = 0.0

    @abstractmethod
    def opening(self) -> str:
        """Return what the policy is told first."""

    @abstractmethod
    async def reply_to(self, said: str) -> Reply:
        """Return what comes of a turn."""

    @abstractmethod
    def narrowed(self) -> float:
        """Return how far the secret was narrowed down: 0 not at all, 1 where only one is left."""

    async def initial_observation(self) -> Messages:
        """Return the opening."""
        return self.tell(self.opening())

    async def step(self, message: Message) -> rl.MessageStepResult:
        """Take a turn and reply to it."""
        reply = await self.reply_to(get_text_content(message))
        self._taken += 1
        self._wasted += reply.wasted
        narrowed = 0.5 * (1.0 if reply.found else self.narrowed())
        parts = {"narrowed": narrowed - self._paid}
        self._paid = narrowed
        if reply.wasted and self._wasted_cost:
            parts["wasted"] = -self._wasted_cost
        if reply.found:
            parts["found"] = 0.5 * (self._most - self._taken + 1) / self._most
        reward, metrics = sum(parts.values()), self.metrics(found=reply.found)
        if reply.found or self._taken == self._most:
            end = "found" if reply.found else f"out_of_{self.turns}"
            return rl.MessageStepResult(reward, True, metrics=metrics, reward_parts=parts, end_reason=end)
        return rl.MessageStepResult(
            reward, False, self.answer(message, reply.text), metrics=metrics, reward_parts=parts
        )

    def metrics(self, *, found: bool) -> dict[str, float]:
        """Return what is measured of the game so far."""
        return {
            "found": float(found),
            self.turns: float(self._taken if found else self._most),
            "wasted": self._wasted / self._taken,
        }


def number_in(text: str, forms: Sequence[str]) -> int | None:
    """Return the number that a turn names, None where that is not clear.

    Args:
        text: of the turn.
        forms: regular expressions with one group; the last match of the first that is found counts.
    """
    for form in forms:
        found = re.findall(form, text, re.IGNORECASE)
        if found:
            return int(found[-1])
    # Whoever says just one number means that one.
    found = re.findall(r"\d+", text)
    return int(found[0]) if len(found) == 1 and len(found[0]) < 10 else None
