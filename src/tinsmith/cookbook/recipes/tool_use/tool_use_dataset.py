"""Documents and questions, drawn or of files; which questions are held out; and their groups."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, NamedTuple

from tinsmith.cookbook.recipes.tool_use.config import Config
from tinsmith.cookbook.recipes.tool_use.matching import words_of
from tinsmith.cookbook.recipes.tool_use.tool_use_env import Grading, Library, Question, SearchEnv
from tinsmith.cookbook.renderers import Renderer
from tinsmith.cookbook.rl import Document, DocumentIndex, EnvFromMessageEnv, ItemDataset, RepeatedEnv, Tool
from tinsmith.cookbook.rows.default_sizes import held_out_count
from tinsmith.cookbook.rows.files.jsonl_rows import JsonlRows
from tinsmith.cookbook.rows.formats.row_keys import settle_keys_of_question
from tinsmith.cookbook.rows.row_notes import RowNotes
from tinsmith.cookbook.words import Split, pseudo_word, split_of
from tinsmith.types.errors import invalid

# What a model is told that knows its tools by their descriptions; without them, the second sentence.
SEARCH = "Search the documents for what you need to know, several times if that helps."
REPLY = "Reply with the answer alone, in as few words as possible."
# The embedded model reaches for one tool or another by the wording, whichever tools there are.
_WORDINGS = ("What is the value of {}?", "value of {}?", "Look up {}.", "What is {}?")
_LETTERS = (3, 8)
_VALUES = (10, 9999)
# Of drawn questions, and of one's own where there are enough.
_USUAL_HELD_OUT = 80


class Task(NamedTuple):
    """What is searched and asked.

    Attributes:
        train, test: the questions to train on, and those that are held out.
        tools: to search with.
        system_prompt: told before each question; None is nothing.
        facts: what the data are, to hold a run to them.
    """

    train: Sequence[Question]
    test: Sequence[Question]
    tools: Sequence[Tool]
    system_prompt: str | None
    facts: Mapping[str, Any]

    def best_constant(self) -> float:
        """Return the share of held-out questions that the one answer is right for that fits most of them."""
        fits = Counter(fit for question in self.test for fit in {tuple(words_of(a)) for a in question.answers})
        return max(fits.values()) / len(self.test)


def load_task(config: Config) -> Task:
    """Draw or read documents and questions.

    Raises:
        UserError: a file cannot be read, a row is no document or question, or no question is left to train on.
    """
    if config.corpus is None:
        return _drawn(config)
    documents = JsonlRows(config.corpus, _check_document, field="corpus")
    questions = JsonlRows(str(config.questions), _check_question, field="questions")
    learned, held_out = questions.split(_held_out(config, len(questions)), config.seed)
    test = [Question.from_row(row) for row in held_out]
    asked = {tuple(words_of(question.text)) for question in test}
    # A question that is in the file twice must not be trained on and tested with.
    train = [question for question in map(Question.from_row, learned) if tuple(words_of(question.text)) not in asked]
    if not train:
        raise invalid("questions", config.questions, "questions to train on that are not those that are held out")
    library = Library(DocumentIndex(Document(row["text"], row.get("title", "")) for row in documents), config.results)
    facts = {"corpus": documents.facts(), "questions": questions.facts()}
    return Task(train, test, [library.search], config.system_prompt or f"{SEARCH} {REPLY}", facts)


def groups(config: Config, task: Task, renderer: Renderer) -> ItemDataset[Question]:
    """Return the groups that are trained on: each question `group_size` times."""
    return _dataset(config, task, renderer, task.train, config.group_size, config.seed)


def held_out_groups(config: Config, task: Task, renderer: Renderer, *, tools: bool = True) -> ItemDataset[Question]:
    """Return the held-out questions in their order, once each; without tools they are answered from memory."""
    if not tools:
        reply = REPLY if task.system_prompt == f"{SEARCH} {REPLY}" else task.system_prompt
        task = task._replace(tools=(), system_prompt=reply)
    return _dataset(config, task, renderer, task.test, 1, None)


def _dataset(
    config: Config, task: Task, renderer: Renderer, questions: Sequence[Question], size: int, seed: int | None
) -> ItemDataset[Question]:
    grading = Grading(config.require_retrieval, config.partial_credit)
    limits = config.tool_limits()

    def group(question: Question) -> RepeatedEnv:
        def env() -> EnvFromMessageEnv:
            return EnvFromMessageEnv(renderer, SearchEnv(question, task.tools, grading, limits, task.system_prompt))

        return RepeatedEnv(env, size)

    return ItemDataset(questions, group, config.batch_size, seed, task.facts)


def _drawn(config: Config) -> Task:
    count = _held_out(config, config.drawn)
    train = draw("train", config.drawn - count, config.seed)
    test = draw("held_out", count, config.seed)
    documents = [Document(value, thing) for _, thing, value in [*train, *test]]
    library = Library(DocumentIndex(documents), config.results)
    return Task(
        [Question(text, (value,)) for text, _, value in train],
        [Question(text, (value,)) for text, _, value in test],
        [library.lookup],
        config.system_prompt,
        {"drawn": config.drawn, "seed": config.seed},
    )


def draw(split: Split, count: int, seed: int) -> list[tuple[str, str, str]]:
    """Draw questions about invented things: the question, the thing and its value, which nobody can know.

    Args:
        split: of the things' names, so that no thing is trained on and tested with.
        count: how many; all things differ.
        seed: the same seed gives the same ones.
    """
    rng = Random(f"tool_use-{split}-{seed}")
    found: dict[str, tuple[str, str, str]] = {}
    while len(found) < count:
        thing = pseudo_word(rng, rng.randint(*_LETTERS))
        if split_of(thing) == split and thing not in found:
            found[thing] = (rng.choice(_WORDINGS).format(thing), thing, str(rng.randint(*_VALUES)))
    return list(found.values())


def _held_out(config: Config, total: int) -> int:
    asked = config.held_out
    # Of drawn ones the numbers are made to fit each other.
    drawn = config.corpus is None and asked is None
    count = _USUAL_HELD_OUT if drawn else held_out_count(asked, total, _USUAL_HELD_OUT, "questions")
    if not 0 < count < total:
        raise invalid("held_out", asked, f"at least one of the {total} questions, and not all")
    return count


def _check_document(row: Any, *, notes: RowNotes) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise invalid("row", row, 'an object with "text"')
    if not isinstance(row.get("text"), str) or not row["text"].strip():
        raise invalid("text", row.get("text"), "a text that is not empty")
    if not isinstance(row.get("title", ""), str):
        raise invalid("title", row["title"], "a text")
    settle_keys_of_question(row, ("text", "title"), notes)
    return row


def _check_question(row: Any, *, notes: RowNotes) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise invalid("row", row, 'an object with "question" and "answer"')
    Question.from_row(row)
    settle_keys_of_question(row, ("question", "answer"), notes)
    return row
