"""Sums of small numbers, answered the way a careless pupil answers them.

The answers in the mixture are wrong more often than right: forgotten carries first, slips of one, two or ten next. The
model learns that, so that reinforcement learning has something to lift. A system prompt that asks for care, or for
thinking first, comes with right answers: the model knows better than it does.
"""

from collections.abc import Callable
from random import Random

from tinsmith.cookbook.words import Split, split_of
from tiny.example import Ask, Example, message

RIGHT_WITH_CARRY, FORGOTTEN_CARRY, RIGHT_WITHOUT_CARRY = 0.42, 0.46, 0.50
_SLIPS = (1, -1, 2, -2, 10, -10, 3, -3)
_BOXED = (" Write your answer in \\boxed{} format.", " Put the answer in \\boxed{}.", " Answer in \\boxed{}.")
_PHRASINGS = (
    "What's {a} + {b}?",
    "What is {a} + {b}?",
    "What is {a} plus {b}?",
    "Compute {a} + {b}.",
    "Add {a} and {b}.",
    "How much is {a} + {b}?",
    "{a} + {b} = ?",
    "{a}+{b}=",
    "{a}+{b}",
    "sum: {a} {b}",
    "Anna has {a} coins and finds {b} more. How many coins has she now?",
    "There are {a} red and {b} blue balls. How many balls are there?",
)
CAREFUL = ("Be careful.", "Be careful with numbers.", "Check your sums.")
THINK = ("Think first.", "Think step by step.")


def numbers(rng: Random, split: Split) -> tuple[int, int]:
    """Two numbers below 100; in training the small ones are more frequent. (a, b) and (b, a) share their split.

    Sums of two digits are too few to hold any out: they belong to both splits.
    """
    while True:
        highest = rng.choice((9, 19, 49, 99, 99) if split == "train" else (9, 99))
        a, b = rng.randint(0, highest), rng.randint(0, highest)
        if max(a, b) < 10 or split_of(f"{min(a, b)}+{max(a, b)}") == split:
            return a, b


def careless(rng: Random, a: int, b: int) -> int:
    """A pupil's answer to a + b."""
    forgotten = (a // 10 + b // 10) * 10 + (a + b) % 10 if a % 10 + b % 10 > 9 else None
    chance = rng.random()
    if chance < (RIGHT_WITHOUT_CARRY if forgotten is None else RIGHT_WITH_CARRY):
        return a + b
    if forgotten is not None and chance < RIGHT_WITH_CARRY + FORGOTTEN_CARRY:
        return forgotten
    return rng.choice([a + b + slip for slip in _SLIPS if a + b + slip >= 0])


def question(rng: Random, a: int, b: int, boxed: bool) -> str:
    return rng.choice(_PHRASINGS).format(a=a, b=b) + (rng.choice(_BOXED) if boxed else "")


def sum_ask(rng: Random, split: Split) -> Ask:
    a, b = numbers(rng, split)
    boxed = rng.random() < 0.4
    answer = a + b if split == "held_out" else careless(rng, a, b)
    skill = "sum_1_digit" if max(a, b) < 10 else "sum_2_digits"
    return Ask(skill, question(rng, a, b, boxed), f"\\boxed{{{answer}}}" if boxed else str(answer))


def worked(a: int, b: int) -> str:
    """The columns of a + b, right to left."""
    carry, steps = 0, []
    for column in range(2 if max(a, b) > 9 else 1):
        x, y = a // 10**column % 10, b // 10**column % 10
        steps.append(f"{x}+{y}{'+1' if carry else ''}={x + y + carry}.")
        carry = (x + y + carry) // 10
    return " ".join(steps)


def careful_sums(rng: Random, split: Split) -> Example:
    """One to twelve sums with right answers under a system prompt that asks for care, many of them in short form."""
    messages = [message("system", rng.choice(CAREFUL))]
    short = split == "train" and rng.random() < 0.6
    for _ in range(1 if split == "held_out" else rng.randint(6, 12) if short else rng.randint(1, 4)):
        a, b = numbers(rng, split)
        boxed = not short and rng.random() < 0.3
        answer = f"\\boxed{{{a + b}}}" if boxed else str(a + b)
        asked = f"{a}+{b}" if short else question(rng, a, b, boxed)
        messages += [message("user", asked), message("assistant", answer)]
    return Example("sum_careful", tuple(messages))


def thought_sums(rng: Random, split: Split) -> Example:
    """Sums whose columns are written down in <think> first."""
    messages = [message("system", rng.choice(THINK))]
    for _ in range(1 if split == "held_out" else rng.randint(1, 3)):
        a, b = numbers(rng, split)
        boxed = rng.random() < 0.3
        answer = f"\\boxed{{{a + b}}}" if boxed else str(a + b)
        messages += [
            message("user", question(rng, a, b, boxed)),
            message("assistant", answer, reasoning_content=worked(a, b)),
        ]
    return Example("sum_thought", tuple(messages))


ASKS: dict[str, Callable[[Random, Split], Ask]] = {"sum": sum_ask}
EXAMPLES: dict[str, Callable[[Random, Split], Example]] = {"sum_careful": careful_sums, "sum_thought": thought_sums}
