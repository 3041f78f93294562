"""One question: the tools to search with, and what an answer is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tinsmith.cookbook.recipes.tool_use.matching import contains, exact_match, f1_score
from tinsmith.cookbook.renderers import Message
from tinsmith.cookbook.renderers.messages import get_text_content
from tinsmith.cookbook.rl import DocumentIndex, EpisodeGrade, Tool, ToolEnv, ToolLimits, tool
from tinsmith.types.errors import invalid


@dataclass(frozen=True)
class Question:
    """What is asked.

    Attributes:
        text: the question.
        answers: those that are right.
    """

    text: str
    answers: tuple[str, ...]

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Question:
        """Read `question` and `answer`; other fields are for whoever reads the file.

        Raises:
            UserError: names the field that is not of that form.
        """
        text, given = row.get("question"), row.get("answer")
        if not isinstance(text, str) or not text.strip():
            raise invalid("question", text, "a text that is not empty")
        answers = [given] if isinstance(given, str) else given
        if not isinstance(answers, list) or not answers or not all(isinstance(a, str) and a.strip() for a in answers):
            raise invalid("answer", given, "a text that is not empty, or a list of them")
        return cls(text, tuple(answers))


class Library:
    """Documents, and the tools to find something in them.

    Args:
        index: of the documents.
        results: documents that a search shows.
    """

    def __init__(self, index: DocumentIndex, results: int) -> None:
        self._index = index
        self._results = results

    @tool
    def search(self, query: str) -> str:
        """Search the documents. The best matches are shown, the best first.

        Args:
            query: words that the documents hold
        """
        found = self._index.search(query, self._results)
        return "\n\n".join(f"{one.title}\n{one.text}".strip() for one in found) or "nothing found"

    # The name and the words that the embedded model has met.
    @tool(description="Look up the value of a key.")
    def lookup(self, key: str) -> str:
        """Search under another name."""
        return self.search(key)


@dataclass(frozen=True)
class Grading:
    """What answers are worth.

    Attributes:
        require_retrieval: whether a right answer has to stand in what was found.
        partial_credit: whether some of its words are worth something.
    """

    require_retrieval: bool = True
    partial_credit: bool = False


class SearchEnv(ToolEnv):
    """A question that is to be answered by what is found.

    Args:
        question: what is asked.
        tools: to search with; none, and the question is answered from memory.
        grading: what the answer is worth.
        limits: of the calls.
        system_prompt: told before the question; None is nothing.
    """

    def __init__(
        self,
        question: Question,
        tools: Sequence[Tool],
        grading: Grading,
        limits: ToolLimits,
        system_prompt: str | None = None,
    ) -> None:
        told = [] if system_prompt is None else [{"role": "system", "content": system_prompt}]
        super().__init__([*told, {"role": "user", "content": question.text}], tools, self.grade, limits)
        self._question = question
        self._grading = grading

    def grade(self, conversation: Sequence[Message]) -> EpisodeGrade:
        """Return what the last turn is worth."""
        said, answers = get_text_content(conversation[-1]), self._question.answers
        found = [str(message["content"]) for message in conversation if message["role"] == "tool"]
        right = float(exact_match(said, answers))
        near = f1_score(said, answers)
        retrieved = any(contains(text, answers) for text in found)
        reward = near if self._grading.partial_credit else right
        if self._grading.require_retrieval and not retrieved:
            reward = 0.0
        return EpisodeGrade(
            reward,
            {"correct": right, "f1": near, "retrieved": float(retrieved), "called": float(bool(found))},
            {"said": said, "reference": " | ".join(answers)},
        )
