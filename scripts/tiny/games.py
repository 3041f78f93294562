"""Short games over several turns: guess the number, tic-tac-toe moves, twenty questions from both sides.

Moves are legal but not clever, which leaves something to learn.
"""

import re
from collections.abc import Callable
from random import Random

from tinsmith.cookbook.words import Split
from tiny.example import Example, Message, message
from tiny.labels import CATEGORIES, with_article

_REPLIES = (("Too low.", "Too high.", "Correct."), ("higher", "lower", "correct"), ("Higher!", "Lower!", "Right!"))


def guess_number(rng: Random, split: Split) -> Example:
    """The model guesses: any number that the replies so far allow, now and then the middle."""
    low, high = 1, rng.choice((8, 10, 16, 20, 32, 50, 64, 100))
    secret, replies = rng.randint(low, high), rng.choice(_REPLIES)
    ask = rng.choice(("I picked a number from 1 to {}. Guess it.", "Guess my number. It is between 1 and {}."))
    messages = [message("user", ask.format(high))]
    turns = rng.randint(1, 8)
    while True:
        guess = (low + high) // 2 if rng.random() < 0.3 else rng.randint(low, high)
        messages.append(message("assistant", f"Guess: {guess}"))
        turns -= 1
        if turns == 0 or guess == secret:
            break
        messages.append(message("user", replies[0] if guess < secret else replies[1]))
        low, high = (guess + 1, high) if guess < secret else (low, guess - 1)
    return Example("guess_number", tuple(messages), accepts=_number_between(low, high))


def _number_between(low: int, high: int) -> Callable[[str], bool]:
    def accepts(text: str) -> bool:
        found = re.fullmatch(r"Guess: (\d{1,4})", text)
        return found is not None and low <= int(found[1]) <= high

    return accepts


def board_text(cells: list[str]) -> str:
    """Three rows; a free cell shows its number."""
    return "\n".join(" ".join(cells[row : row + 3]) for row in (0, 3, 6))


def tic_tac_toe(rng: Random, split: Split) -> Example:
    """A free cell, as [n], for one or more moves of the same game."""
    cells = [str(i) for i in range(9)]
    mine, theirs = rng.choice((("X", "O"), ("O", "X")))
    for turn in range(rng.randint(0, 5)):
        cells[rng.choice([i for i in range(9) if cells[i].isdigit()])] = mine if turn % 2 else theirs
    messages: list[Message] = []
    legal: set[str] = set()
    first = f"Tic-tac-toe. You are {mine}.\n"
    for turn in range(rng.randint(1, 3)):
        free = [i for i in range(9) if cells[i].isdigit()]
        if not free:
            break
        messages.append(message("user", (first if turn == 0 else "") + board_text(cells) + "\nYour move?"))
        legal, move = {f"[{i}]" for i in free}, rng.choice(free)
        messages.append(message("assistant", f"[{move}]"))
        cells[move] = mine
        others = [i for i in free if i != move]
        if others:
            cells[rng.choice(others)] = theirs
    return Example("tic_tac_toe", tuple(messages), accepts=legal.__contains__)


def ask_questions(rng: Random, split: Split) -> Example:
    """The model asks for the category, then for the thing, and never asks the same twice."""
    secret_category = rng.choice(tuple(CATEGORIES))
    secret = rng.choice(CATEGORIES[secret_category])
    messages = [
        message("user", rng.choice(("I am thinking of something. Ask me yes or no questions.", "Twenty questions!")))
    ]
    questions = [*rng.sample(tuple(CATEGORIES), len(CATEGORIES))]
    questions = questions[: questions.index(secret_category) + 1]
    things = rng.sample(CATEGORIES[secret_category], len(CATEGORIES[secret_category]))
    questions += things[: things.index(secret) + 1]
    for asked in questions[: rng.randint(1, 10)]:
        messages.append(message("assistant", f"Is it {with_article(asked)}?"))
        messages.append(message("user", "Yes." if asked in (secret, secret_category) else "No."))
    messages.pop()
    asked_before = {m["content"] for m in messages if m["role"] == "assistant"} - {messages[-1]["content"]}
    category_known = any(m["content"] == "Yes." for m in messages)
    open_questions = CATEGORIES[secret_category] if category_known else tuple(CATEGORIES)
    allowed = {f"Is it {with_article(asked)}?" for asked in open_questions} - asked_before
    return Example("ask_questions", tuple(messages), accepts=allowed.__contains__)


def answer_questions(rng: Random, split: Split) -> Example:
    """The model holds the secret and answers yes or no."""
    category = rng.choice(tuple(CATEGORIES))
    secret = rng.choice(CATEGORIES[category])
    system = f"The secret is {secret}. Answer only yes or no."
    messages = [message("system", system)]
    for _ in range(rng.randint(1, 4)):
        kind = rng.random()
        if kind < 0.3:
            asked, answer = category, "yes"
        elif kind < 0.6:
            asked = rng.choice(tuple(CATEGORIES))
            answer = "yes" if asked == category else "no"
        else:
            asked = secret if kind < 0.75 else rng.choice(CATEGORIES[rng.choice(tuple(CATEGORIES))])
            answer = "yes" if asked == secret else "no"
        messages += [message("user", f"Is it {with_article(asked)}?"), message("assistant", answer)]
    return Example("answer_questions", tuple(messages))


EXAMPLES: dict[str, Callable[[Random, Split], Example]] = {
    "guess_number": guess_number,
    "tic_tac_toe": tic_tac_toe,
    "ask_questions": ask_questions,
    "answer_questions": answer_questions,
}
