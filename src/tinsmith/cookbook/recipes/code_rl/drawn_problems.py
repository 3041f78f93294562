"""Small problems without end, drawn by seed: one line of Python about a string, for a model that knows no Python.

`f(s): the first 3 letters of s` wants `s[:3]`. Each problem is one of fourteen kinds with arguments of its own. Tests
of held-out problems use words that no problem for training uses; the texts that are added to a word are others too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from random import Random

from tinsmith.cookbook.code_execution import CallTest, CodeProblem
from tinsmith.cookbook.words import Split, split_of, words

PREFIX = "def f(s): return "
TESTS = 4
# How often a pupil is right, and how often it makes the slip of the kind; else it writes what another problem wants.
RIGHT, SLIP = 0.3, 0.4
_LETTERS = "abcdefghiklmnoprstuw"


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of problem; `{n}`, `{t}`, `{a}`, `{b}` and `{c}` are its arguments.

    Attributes:
        says: what is asked.
        program: a right answer.
        slip: a wrong one that is near.
    """

    says: str
    program: str
    slip: str


KINDS = (
    Kind("the first {n} letters of s", "s[:{n}]", "s[{n}:]"),
    Kind("the last {n} letters of s", "s[-{n}:]", "s[:-{n}]"),
    Kind("s without its first {n} letters", "s[{n}:]", "s[:{n}]"),
    Kind("s without its last {n} letters", "s[:-{n}]", "s[-{n}:]"),
    Kind("s written {n} times", "s * {n}", "s + '{n}'"),
    Kind("s with '{t}' at its end", "s + '{t}'", "'{t}' + s"),
    Kind("s with '{t}' before it", "'{t}' + s", "s + '{t}'"),
    Kind("s with every '{a}' made '{b}'", "s.replace('{a}', '{b}')", "s.replace('{b}', '{a}')"),
    Kind("how often '{a}' is in s", "s.count('{a}')", "s.find('{a}')"),
    Kind("the letters of s with '{c}' between", "'{c}'.join(s)", "s + '{c}'"),
    Kind("how many letters s has", "len(s)", "len(s) - 1"),
    Kind("s backwards", "s[::-1]", "s[:-1]"),
    Kind("s in capital letters", "s.upper()", "s.lower()"),
    Kind("the letters of s in order", "sorted(s)", "s.sort()"),
)


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A problem that was drawn.

    Attributes:
        problem: statement and tests; the program begins with `PREFIX`.
        program: what follows it in a right answer.
        slip: what follows it in the wrong one that is near.
        tested: the words of the tests.
    """

    problem: CodeProblem
    program: str
    slip: str
    tested: tuple[str, ...]


def draw(split: Split, count: int, seed: int) -> list[Drawn]:
    """Draw problems, of every kind about as many; the same seed gives the same ones."""
    rng = Random(f"{split}-{seed}")
    known = [word for word in words(split) if 4 <= len(word) <= 8]
    drawn = [_draw(rng, split, known, KINDS[i % len(KINDS)]) for i in range(count)]
    rng.shuffle(drawn)
    return drawn


def pupil(rng: Random, drawn: Drawn, others: Sequence[Drawn]) -> str:
    """Return what a careless pupil answers: the slip of the kind more often than what is right."""
    chance = rng.random()
    if chance < RIGHT:
        return drawn.program
    return drawn.slip if chance < RIGHT + SLIP else rng.choice(others).program


def best_constant(problems: Sequence[Drawn]) -> float:
    """Return the share of problems that is solved by one who always writes the program that solves most of them."""
    programs = {drawn.program for drawn in problems}
    return max(sum(_solves(program, drawn) for drawn in problems) for program in programs) / len(problems)


def _solves(program: str, drawn: Drawn) -> bool:
    return all(_value(program, word) == _value(drawn.program, word) for word in drawn.tested)


def _draw(rng: Random, split: Split, known: Sequence[str], kind: Kind) -> Drawn:
    while True:
        a, b = rng.sample(_LETTERS, 2)
        arguments = {"n": rng.randint(2, 3), "t": _text(rng, split), "a": a, "b": b, "c": rng.choice("-.,/_+")}
        program, slip = kind.program.format(**arguments), kind.slip.format(**arguments)
        tested = rng.sample(known, TESTS)
        values = [_value(program, word) for word in tested]
        # Neither one value for all words nor the slip may pass.
        if len(set(map(repr, values))) > 1 and values != [_value(slip, word) for word in tested]:
            break
    tests = [CallTest(f"f({word!r})", value) for word, value in zip(tested, values, strict=True)]
    return Drawn(CodeProblem(f"f(s): {kind.says.format(**arguments)}", tests), program, slip, tuple(tested))


def _text(rng: Random, split: Split) -> str:
    while True:
        text = "".join(rng.choices(_LETTERS, k=rng.randint(2, 3)))
        if split_of(text) == split:
            return text


def _value(program: str, word: str) -> object:
    """Return what a program of this file makes of a word; None where it raises."""
    try:
        return eval(program, {"__builtins__": {"len": len, "sorted": sorted}}, {"s": word})
    except (AttributeError, ValueError):
        return None
