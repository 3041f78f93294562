"""Expressions in LaTeX or plain notation, read into sympy. For the worker processes: nothing else imports sympy.

A recursive descent that takes only what has one meaning: `2(3)` is 6, `5 6` and `1/2x` and `x'` are refused. The
parser of math-verify is not it, because it reads these as 5, 11, 1/(2x) and x.

    sum      = product (("+" | "-") product)*
    product  = signed (("*" | "/")? signed)*         the sign may be left out before anything but a number
    signed   = ("+" | "-")* power
    power    = atom ("^" exponent)? "!"?
"""

from __future__ import annotations

import re

import sympy
from sympy import Expr, Integer, Rational, Symbol

# Enough for any answer, and few enough that neither Python's stack nor sympy is in danger.
_MAX_DEPTH = 30
_MAX_EXPONENT = 1000
_MAX_BITS = 20_000
_MAX_FACTORIAL = 500

_FUNCTIONS = {
    **{"sin": sympy.sin, "cos": sympy.cos, "tan": sympy.tan, "cot": sympy.cot, "sec": sympy.sec, "csc": sympy.csc},
    **{"sinh": sympy.sinh, "cosh": sympy.cosh, "tanh": sympy.tanh, "exp": sympy.exp, "gamma": sympy.gamma},
    **{"arcsin": sympy.asin, "arccos": sympy.acos, "arctan": sympy.atan, "Gamma": sympy.gamma},
}
_INVERSES = {"sin": sympy.asin, "cos": sympy.acos, "tan": sympy.atan}
_LOGARITHMS = ("log", "ln", "lg")
_NAMED = ("sqrt", "pi", *_LOGARITHMS, *_FUNCTIONS)
_GREEK_LETTERS = """
    alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma tau upsilon
    phi varphi chi psi omega Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega
"""
_GREEK = set(_GREEK_LETTERS.split())
_DECORATIONS = {"hat", "bar", "overline", "vec", "tilde"}
_CLOSERS = {"(": ")", "[": "]", "{": "}", "|": "|", r"\lfloor": r"\rfloor", r"\lceil": r"\rceil"}
# A row of dots may go on in more than one way; math-verify drops it.
_REFUSED = {"dots", "ldots", "cdots"}
_KNOWN = {
    *(*_NAMED, *_GREEK, *_DECORATIONS, *_REFUSED),
    *("frac", "binom", "infty", "text", "circ", "lfloor", "rfloor", "lceil", "rceil"),
}
# A logarithm without a base is one to the same unknown base wherever it stands.
_BASE = Symbol("base of log", positive=True)

_TOKEN = re.compile(
    r" +|[0-9]+(?:\.[0-9]+)?|\.[0-9]+|\\[A-Za-z]+|\\[{}]|(?:"
    + "|".join(sorted(_NAMED, key=len, reverse=True))
    + r")(?![A-Za-z])|[A-Za-z]|[-+*/^_!|(){}\[\]]"
)
_DIGITS = re.compile(r"[0-9.]+")
_COMMAND = re.compile(r"\\([A-Za-z]+)")


class Unreadable(Exception):
    """A text that is no expression, has more than one meaning, or is too large to compute."""


class UnknownCommand(Unreadable):
    """A text with a LaTeX command that is not read here, as \\sum."""


def read_expression(text: str) -> Expr:
    """Read a cleaned text. Letters are real numbers, e and i are the constants, angles in degrees become radians.

    Raises:
        UnknownCommand: there is a command in it that is not read here.
        Unreadable: it is no expression, or more than one.
    """
    for command in _COMMAND.findall(text):
        if command not in _KNOWN:
            raise UnknownCommand(command)
    tokens, position = [], 0
    while position < len(text):
        found = _TOKEN.match(text, position)
        if found is None:
            raise Unreadable(f"{text[position]!r}")
        tokens.append(found[0])
        position = found.end()
    reader = _Reader([token for token in tokens if not token.isspace()])
    value = reader.sum()
    if reader.token:
        raise Unreadable(reader.token)
    return value


class _Reader:
    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens[::-1]
        self._depth = 0
        # Inside |...| a bar closes.
        self._in_bars = False

    @property
    def token(self) -> str:
        """The next token, empty at the end."""
        return self._tokens[-1] if self._tokens else ""

    def _take(self) -> str:
        if not self._tokens:
            raise Unreadable("the end")
        return self._tokens.pop()

    def _expect(self, token: str) -> None:
        if self._take() != token:
            raise Unreadable(f"no {token}")

    def sum(self) -> Expr:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise Unreadable("too deep")
        value = self._product()
        while self.token in ("+", "-"):
            sign = self._take()
            value = value + self._product() if sign == "+" else value - self._product()
        self._depth -= 1
        return value

    def _product(self) -> Expr:
        value = self._signed()
        divided = False
        while True:
            if self.token == "*":
                self._take()
                value, divided = value * self._signed(), False
            elif self.token == "/":
                self._take()
                value, divided = value / self._signed(), True
            elif self._begins_atom():
                # 1/2x: half an x, or one over 2x?
                if divided or _DIGITS.match(self.token):
                    raise Unreadable("a product without a sign behind a division, or before a number")
                value = value * self._power()
            else:
                return value

    def _begins_atom(self) -> bool:
        token = self.token
        if token in ("", "+", "-", "*", "/", "^", "_", "!", ")", "]", "}", r"\}", r"\rfloor", r"\rceil"):
            return False
        return token != "|" or not self._in_bars

    def _signed(self) -> Expr:
        negative = False
        while self.token in ("+", "-"):
            negative ^= self._take() == "-"
        value = self._power()
        return -value if negative else value

    def _power(self) -> Expr:
        return self._raised(self._atom())

    def _raised(self, base: Expr) -> Expr:
        if self.token == "^":
            self._take()
            base = self._to_the(base, self._exponent())
        if self.token == "!":
            self._take()
            base = _factorial(base)
        if self.token in ("^", "!", "_"):
            raise Unreadable(f"a second {self.token}")
        return base

    def _exponent(self) -> Expr | None:
        """Read an exponent; None is the sign of degrees."""
        if self._tokens[-3:] == ["}", r"\circ", "{"]:
            del self._tokens[-3:]
            return None
        if self.token == r"\circ":
            self._take()
            return None
        negative = self.token == "-"
        if negative:
            self._take()
        value = self._atom()
        return -value if negative else value

    @staticmethod
    def _to_the(base: Expr, exponent: Expr | None) -> Expr:
        if exponent is None:
            return base * sympy.pi / 180
        if isinstance(exponent, Rational):
            size = abs(exponent.p) // exponent.q
            bits = max(base.p.bit_length(), base.q.bit_length()) if isinstance(base, Rational) else 1
            if size > _MAX_EXPONENT or size * bits > _MAX_BITS:
                raise Unreadable("too large a power")
        return base**exponent

    def _atom(self) -> Expr:
        token = self._take()
        if _DIGITS.match(token):
            return self._number(token)
        if (token.startswith("\\") and token not in _CLOSERS) or token in _NAMED:
            return self._command(token.removeprefix("\\"))
        if token in _CLOSERS:
            return self._enclosed(token)
        if token.isalpha():
            return self._letter(token)
        raise Unreadable(token)

    def _number(self, token: str) -> Expr:
        value = Rational(token)
        # 3\frac{1}{2} is three and a half.
        if self.token == r"\frac" and value.is_Integer:
            self._take()
            top, bottom = self._argument(), self._argument()
            if not (isinstance(top, Integer) and isinstance(bottom, Integer)):
                return value * top / bottom
            if not 0 <= int(top) < int(bottom):
                raise Unreadable("a whole number before a fraction that is not proper")
            return value + Rational(int(top), int(bottom))
        return value

    def _enclosed(self, opening: str) -> Expr:
        outside, self._in_bars = self._in_bars, opening == "|"
        value = self.sum()
        self._expect(_CLOSERS[opening])
        self._in_bars = outside
        functions = {"|": sympy.Abs, r"\lfloor": sympy.floor, r"\lceil": sympy.ceiling}
        return functions[opening](value) if opening in functions else value

    def _argument(self) -> Expr:
        """Read what a command takes: a group, or one character."""
        token = self._take()
        if _DIGITS.match(token) and len(token) > 1:
            self._tokens.append(token[1:])
            token = token[0]
        self._tokens.append(token)
        return self._atom()

    def _letter(self, token: str) -> Expr:
        if token in ("e", "i") and self.token != "_":
            return sympy.E if token == "e" else sympy.I
        symbol = self._symbol(token)
        # f(x) is a function, h(a + b) a product.
        if token in "fgh" and re.fullmatch(r"\(\w+\)", "".join(self._tokens[:-4:-1])):
            return sympy.Function(symbol.name)(self._atom())
        return symbol

    def _symbol(self, name: str) -> Symbol:
        if self.token == "_":
            self._take()
            name += f"_{self._raw()}"
        return Symbol(name, real=True)

    def _raw(self) -> str:
        """Read a group, or one token, as it is written."""
        token = self._take()
        if token != "{":
            return token
        inside = []
        while self.token not in ("}", "{", ""):
            inside.append(self._take())
        self._expect("}")
        return "".join(inside)

    def _command(self, name: str) -> Expr:
        if name == "pi":
            return sympy.pi
        if name == "infty":
            return sympy.oo
        if name in ("frac", "binom"):
            top, bottom = self._argument(), self._argument()
            return top / bottom if name == "frac" else _binomial(top, bottom)
        if name == "sqrt":
            return self._root()
        if name in _LOGARITHMS:
            return self._logarithm(name)
        if name in _FUNCTIONS and not (name in _GREEK and self.token != "("):
            return self._function(name)
        if name in _GREEK:
            return self._symbol(name)
        if name in _DECORATIONS:
            return self._symbol(f"{name} {self._raw()}")
        if name == "text" and len(letter := self._raw()) == 1:
            return self._letter(letter)
        raise Unreadable(name)

    def _root(self) -> Expr:
        degree = Integer(2)
        if self.token == "[":
            degree = self._enclosed(self._take())
        if _DIGITS.match(self.token) and len(self.token) > 1:
            raise Unreadable("a root of how many digits?")
        return self._to_the(self._atom(), 1 / degree)

    def _logarithm(self, name: str) -> Expr:
        base = {"ln": sympy.E, "lg": Integer(10), "log": _BASE}[name]
        if name == "log" and self.token == "_":
            self._take()
            base = self._argument()
        exponent = self._function_exponent()
        value = sympy.log(self._function_argument()) / sympy.log(base)
        return value if exponent is None else self._to_the(value, exponent)

    def _function(self, name: str) -> Expr:
        exponent = self._function_exponent()
        function = _FUNCTIONS[name]
        if exponent == -1:
            if name not in _INVERSES:
                raise Unreadable(f"the inverse of {name}")
            function, exponent = _INVERSES[name], None
        argument = self._function_argument()
        if name == "exp" and isinstance(argument, Rational) and abs(argument) > _MAX_EXPONENT:
            raise Unreadable("too large a power")
        value = function(argument)
        return value if exponent is None else self._to_the(value, exponent)

    def _function_exponent(self) -> Expr | None:
        if self.token != "^":
            return None
        self._take()
        return self._exponent()

    def _function_argument(self) -> Expr:
        """Read the argument of a function: a group, or factors up to the next sign or function."""
        if self.token == "(":
            return self._atom()
        value = self._power()
        while self._begins_atom() and self.token.removeprefix("\\") not in (*_FUNCTIONS, *_LOGARITHMS):
            if _DIGITS.match(self.token):
                raise Unreadable("a product before a number")
            value = value * self._power()
        return value


def _factorial(value: Expr) -> Expr:
    if isinstance(value, Rational) and not (isinstance(value, Integer) and 0 <= int(value) <= _MAX_FACTORIAL):
        raise Unreadable("a factorial of that")
    return sympy.factorial(value)


def _binomial(top: Expr, bottom: Expr) -> Expr:
    if any(isinstance(value, Rational) and abs(value) > _MAX_EXPONENT for value in (top, bottom)):
        raise Unreadable("too large a binomial")
    return sympy.binomial(top, bottom)
