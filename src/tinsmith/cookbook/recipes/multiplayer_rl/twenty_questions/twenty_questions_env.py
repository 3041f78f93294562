"""Twenty questions: find out what somebody thinks of."""

from __future__ import annotations

import math

from tinsmith.cookbook.recipes.multiplayer_rl.multiplayer_rl_env import Reply, SearchEnv
from tinsmith.cookbook.recipes.multiplayer_rl.twenty_questions.answerers import Answerer
from tinsmith.cookbook.recipes.multiplayer_rl.twenty_questions.questions import topic_of
from tinsmith.cookbook.recipes.multiplayer_rl.twenty_questions.things import THINGS, true_of

RULES = (
    "You play twenty questions. Somebody thinks of a thing, and you ask one question at a time that can be answered "
    "with yes or no, for example: Is it an animal? You win when you ask for the thing itself, for example: Is it a "
    "cat? Ask as few questions as you can. Reply with one short question and nothing else."
)


class TwentyQuestionsEnv(SearchEnv):
    """A secret thing to be found by questions.

    What is narrowed down is the logarithm of how many things are left, where the answerer keeps to a closed world; what
    another answer leaves, nobody knows.

    Args:
        secret: the thing, one of a kind that has a name.
        answerer: answers the questions that do not ask for the secret itself; that this was right is not left to it.
        max_questions: questions of a game.
        wasted_cost: as in `SearchEnv`.
        rules: as in `GameEnv`.
    """

    turns = "questions"

    def __init__(
        self,
        secret: str,
        answerer: Answerer,
        max_questions: int = 20,
        *,
        wasted_cost: float = 0.0,
        rules: str | None = None,
    ) -> None:
        super().__init__(max_questions, wasted_cost=wasted_cost, rules=rules)
        self._secret = secret
        self._answerer = answerer
        self._topics: set[str] = set()
        self._unclear = 0
        self._left = frozenset(THINGS)

    def opening(self) -> str:
        """Return the invitation to ask."""
        return "I am thinking of something. Ask me yes or no questions."

    async def reply_to(self, said: str) -> Reply:
        """Return the answer to a question."""
        topic = topic_of(said)
        if topic == self._secret:
            return Reply("Yes.", found=True)
        repeated = topic in self._topics
        self._topics.add(topic)
        answer = await self._answerer.answer(self._secret, said.strip()) if topic else None
        if answer is None:
            self._unclear += 1
            return Reply("I can't say. Ask a yes or no question.", wasted=True)
        return Reply("Yes." if answer else "No.", wasted=self._rule_out(topic, answer) or repeated)

    def narrowed(self) -> float:
        """Return 1 - log(things that are left) / log(all things)."""
        return 1 - math.log(len(self._left)) / math.log(len(THINGS))

    def metrics(self, *, found: bool) -> dict[str, float]:
        """Return what is measured of the game so far, questions that were not answered with yes or no included."""
        return {**super().metrics(found=found), "unclear": self._unclear / self._taken}

    def _rule_out(self, topic: str, answer: bool) -> bool:
        """Leave what an answer leaves of a closed world; return whether the answer was to be known before."""
        things = true_of(topic)
        if not self._answerer.closed_world or things is None:
            return False
        before = self._left
        self._left = before & things if answer else before - things
        return self._left == before
