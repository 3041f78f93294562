"""Numbers as people write them, read exactly: 1,000 and 3 1/2 and 1.5 \\times 10^3 and 0.\\overline{3}."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

# Words behind a number that multiply it.
MULTIPLES = {"dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
# 10^1000 is far beyond what an answer needs, and still nothing to a computer.
_MAX_EXPONENT = 1000

_WHOLE = r"[0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,3}(?: [0-9]{3})+|[0-9]+"
_DECIMAL = rf"(?:{_WHOLE})(?:\.[0-9]*)?|\.[0-9]+"
_SIGN = r"(?P<sign>[-+]?) ?"


def _braced(pattern: str) -> str:
    return rf"(?:{pattern}|\{{ ?(?:{pattern}) ?\}})"


_PLAIN = re.compile(rf"{_SIGN}(?P<decimal>{_DECIMAL})")
_REPEATING = re.compile(rf"{_SIGN}(?P<whole>[0-9]*)\.(?P<fixed>[0-9]*)\\(?:overline|bar) ?\{{ ?(?P<period>[0-9]+) ?\}}")
_SCIENTIFIC = re.compile(
    rf"{_SIGN}(?:(?P<mantissa>{_DECIMAL}) ?(?:\* ?10 ?\^ ?|[eE])|10 ?\^ ?)(?P<exponent>{_braced('[-+]?[0-9]{1,5}')})"
)
_NUMBER = rf"[-+]? ?(?:{_DECIMAL})"
_SLASHED = re.compile(rf"{_SIGN}(?P<top>{_braced(_NUMBER)}) ?/ ?(?P<bottom>{_braced(_NUMBER)})")
# \frac takes a group or one character.
_STACKED = re.compile(rf"{_SIGN}\\frac ?(?P<top>[0-9]|\{{ ?{_NUMBER} ?\}}) ?(?P<bottom>[0-9]|\{{ ?{_NUMBER} ?\}})")
_MIXED = re.compile(
    rf"{_SIGN}(?P<whole>[0-9]+)(?: (?P<top>[0-9]+) ?/ ?(?P<bottom>[0-9]+)"
    rf"| ?\\frac ?(?P<top2>[0-9]|\{{[0-9]+\}}) ?(?P<bottom2>[0-9]|\{{[0-9]+\}}))"
)


class Number(NamedTuple):
    """A number.

    Attributes:
        value: exact.
        quotient: whether it is written as one number over another.
    """

    value: Fraction
    quotient: bool = False


def read_number(text: str) -> Number | None:
    """Read a cleaned text as a number, None where it is anything else; a sum or a product is something else.

    Digits are 0 to 9 of ASCII. A number over zero and powers of ten beyond 10^1000 are None, too.
    """
    if found := _PLAIN.fullmatch(text):
        return Number(_signed(found, _decimal(found["decimal"])))
    for pattern in (_SLASHED, _STACKED):
        if found := pattern.fullmatch(text):
            bottom = _decimal(found["bottom"])
            return None if bottom == 0 else Number(_signed(found, _decimal(found["top"]) / bottom), quotient=True)
    if found := _MIXED.fullmatch(text):
        top, bottom = _decimal(found["top"] or found["top2"]), _decimal(found["bottom"] or found["bottom2"])
        # 3 5/2 is a slip or a product, but no mixed number.
        return Number(_signed(found, int(found["whole"]) + top / bottom)) if top < bottom else None
    if found := _SCIENTIFIC.fullmatch(text):
        exponent = int(found["exponent"].strip("{ }"))
        mantissa = _decimal(found["mantissa"] or "1")
        return Number(_signed(found, mantissa * Fraction(10) ** exponent)) if abs(exponent) <= _MAX_EXPONENT else None
    if found := _REPEATING.fullmatch(text):
        return Number(_signed(found, _repeating(found["whole"], found["fixed"], found["period"])))
    return None


def _signed(found: re.Match[str], value: Fraction) -> Fraction:
    return -value if found["sign"] == "-" else value


def _decimal(text: str) -> Fraction:
    digits = re.sub(r"[{} ,]", "", text)
    return Fraction(digits + "0" if digits.endswith(".") else digits)


def _repeating(whole: str, fixed: str, period: str) -> Fraction:
    # 0.1\overline{6}: the digits up to the end of the first period less those before it, over 9s and 0s.
    before, through = int(f"{whole}{fixed}" or "0"), int(f"{whole}{fixed}{period}")
    return Fraction(through - before, (10 ** len(period) - 1) * 10 ** len(fixed))
