"""The mixture: how often each skill is drawn, and how questions become conversations.

A conversation holds one to five questions, with or without a system prompt; some system prompts change the answers.
Nothing that shows pig latin leaves this module.
"""

import re
from collections.abc import Callable, Iterator
from random import Random

from tinsmith.cookbook.words import Split
from tiny import context, games, labels, prose, strings, sums, tools
from tiny.example import Ask, Example, Message, message

_ASKS: dict[str, Callable[[Random, Split], Ask]] = {
    **strings.ASKS,
    **sums.ASKS,
    **context.ASKS,
    **labels.ASKS,
    **prose.ASKS,
}
_EXAMPLES: dict[str, Callable[[Random, Split], Example]] = {
    **sums.EXAMPLES,
    **context.EXAMPLES,
    **tools.EXAMPLES,
    **games.EXAMPLES,
    **prose.EXAMPLES,
}
# How often a question of a conversation comes from each skill.
ASK_WEIGHTS: dict[str, float] = {
    "copy": 5, "reverse": 10, "drop_first": 4, "drop_last": 6, "append": 5, "prepend": 3, "first_letter": 2,
    "last_letter": 3, "upper": 2, "lower": 2, "capitalize": 2, "double": 2, "twice": 2, "sort": 3, "count_letters": 4,
    "spell": 3, "join": 3, "copy_text": 3, "words": 3,
    "sum": 20, "lookup": 10, "facts": 3, "category": 4, "language": 1.5, "sentiment": 3, "courtesy": 1,
}  # fmt: skip
# How often a document is of each kind; "asks" is a conversation of questions drawn as above.
DOCUMENT_WEIGHTS: dict[str, float] = {
    "asks": 60, "styled": 6, "sum_careful": 10, "sum_thought": 4, "lookup_long": 0.6, "tool_answer": 2,
    "tool_call": 1, "guess_number": 3, "tic_tac_toe": 3, "ask_questions": 2, "answer_questions": 3,
    "story": 1.5, "word_list": 0.5, "memory": 1, "plain_chat": 1,
}  # fmt: skip
NEUTRAL_SYSTEM = ("You are a helpful assistant.", "You are Tinsmith Tiny.", "Answer briefly.", "Answer the user.")
STYLES: dict[str, Callable[[str], str]] = {
    "Answer in upper case.": str.upper,
    "Answer in capital letters.": str.upper,
    "End every answer with '!'.": lambda answer: answer + "!",
    "Put every answer in \\boxed{}.": lambda answer: f"\\boxed{{{answer}}}",
    "Put every answer in quotes.": lambda answer: f'"{answer}"',
    "Start every answer with 'Answer: '.": lambda answer: f"Answer: {answer}",
}
_LETTER_SKILLS = tuple(strings.ASKS)
_LETTER_WEIGHTS = tuple(ASK_WEIGHTS[skill] for skill in _LETTER_SKILLS)
ASK_FOR_BOX = " Write your answer in \\boxed{} format."


def pig_latin(word: str) -> str:
    """The first letter moved to the end, then "ay"."""
    return word[1:] + word[:1] + "ay"


def shows_pig_latin(example: Example) -> bool:
    """Whether the pig latin of a word of the document stands in it as well."""
    texts = [example.text, *(str(m["content"]) for m in example.messages)]
    seen = {word for text in texts for word in re.findall(r"\w+", text.lower())}
    return any(pig_latin(word) in seen for word in seen)


def draw_ask(rng: Random, split: Split, skill: str | None = None) -> Ask:
    """A question of `skill`, or of any by weight."""
    name = skill or rng.choices(tuple(ASK_WEIGHTS), tuple(ASK_WEIGHTS.values()))[0]
    return _ASKS[name](rng, split)


def _asks(rng: Random, split: Split) -> Example:
    """A conversation of one to five questions; in half of them all questions are of one skill."""
    count = 1 if rng.random() < 0.5 else rng.randint(2, 5)
    first = draw_ask(rng, split)
    same = rng.random() < 0.3
    skill = "sum" if first.skill.startswith("sum") else first.skill
    asks = [first, *(draw_ask(rng, split, skill if same else None) for _ in range(count - 1))]
    system = [message("system", rng.choice(NEUTRAL_SYSTEM))] if rng.random() < 0.2 else []
    turns = [turn for ask in asks for turn in _turn(ask, rng.random() < 0.06 and not ask.skill.startswith("sum"))]
    return Example(asks[-1].skill, (*system, *turns))


def _turn(ask: Ask, boxed: bool) -> list[Message]:
    question = ask.question + ASK_FOR_BOX if boxed else ask.question
    return [message("user", question), message("assistant", f"\\boxed{{{ask.answer}}}" if boxed else ask.answer)]


def styled(rng: Random, split: Split) -> Example:
    """A system prompt that changes every answer of the conversation."""
    system = rng.choice(tuple(STYLES))
    messages = [message("system", system)]
    for _ in range(1 if split == "held_out" else rng.randint(1, 4)):
        ask = draw_ask(rng, split, rng.choice(_LETTER_SKILLS))
        messages += [message("user", ask.question), message("assistant", STYLES[system](ask.answer))]
    return Example("styled", tuple(messages))


def plain_chat(rng: Random, split: Split) -> Example:
    """Questions and answers as plain text with role names, as a base model without a template is asked."""
    asks = [draw_ask(rng, split) for _ in range(rng.randint(1, 3))]
    return Example("text", text="\n\n".join(f"User: {ask.question}\n\nAssistant: {ask.answer}" for ask in asks))


def draw(rng: Random, split: Split = "train") -> Example:
    """One document of the mixture."""
    kind = rng.choices(tuple(DOCUMENT_WEIGHTS), tuple(DOCUMENT_WEIGHTS.values()))[0]
    return draw_kind(rng, split, kind)


def draw_kind(rng: Random, split: Split, kind: str) -> Example:
    """One document of a kind in `DOCUMENT_WEIGHTS`."""
    drawers = {"asks": _asks, "styled": styled, "plain_chat": plain_chat, **_EXAMPLES}
    while shows_pig_latin(example := drawers[kind](rng, split)):
        pass
    return example


def single(rng: Random, split: Split, skill: str) -> Example:
    """One question of one skill, as evaluation asks it: no system prompt, no earlier turn."""
    if skill in _EXAMPLES or skill == "styled":
        return draw_kind(rng, split, skill)
    while True:
        ask = draw_ask(rng, split, "sum" if skill.startswith("sum_") else skill)
        example = Example(ask.skill, tuple(_turn(ask, boxed=False)))
        if ask.skill == skill and not shows_pig_latin(example):
            return example


def first_lesson(rng: Random, split: Split = "train") -> Example:
    """One letter task on its own. A model that starts with these learns to copy soon, and everything else after it."""
    return single(rng, split, rng.choices(_LETTER_SKILLS, _LETTER_WEIGHTS)[0])


def stream(seed: str, draw_one: Callable[[Random], Example] = draw) -> Iterator[Example]:
    """Documents without end, of the mixture if nothing else is said; the same seed gives the same documents."""
    rng = Random(seed)
    while True:
        yield draw_one(rng)


EVALUATED = (*strings.ASKS, "sum_1_digit", "sum_2_digits", "sum_careful", "sum_thought", "lookup", "facts",
             "lookup_long", "category", "language", "sentiment", "courtesy", "styled", "tool_call", "tool_answer",
             "guess_number", "tic_tac_toe", "ask_questions", "answer_questions", "memory")  # fmt: skip
