"""One spelling for what looks the same on paper: the text of an answer before it is read."""

from __future__ import annotations

import re

_UNICODE = str.maketrans(
    {
        **{"−": "-", "–": "-", "×": "*", "·": "*", "⋅": "*", "÷": "/", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne "},
        **{"∞": r"\infty ", "π": r"\pi ", "∪": r"\cup ", "∈": r"\in ", "∅": r"\emptyset ", "ℤ": r"\mathbb{Z}"},
        **{"°": r"^\circ ", "²": "^2", "³": "^3", "±": r"\pm ", "α": r"\alpha ", "β": r"\beta ", "θ": r"\theta "},
        **{"½": r"\frac{1}{2}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}", "⟨": r"\langle ", "⟩": r"\rangle "},
        **{"\u200b": "", "\ufeff": ""},
    }
)
# Size, style and spacing say nothing, and neither do the marks around mathematics.
_DROPPED = r"""
    \left \right \big \Big \bigg \Bigg \bigl \bigr \Bigl \Bigr \biggl \biggr \Biggl \Biggr \displaystyle \textstyle \!
    \limits \( \) \[ \]
"""
_SPACES = r"\, \; \: \> \quad \qquad ~"
_COMMANDS = {
    **dict.fromkeys(_DROPPED.split(), ""),
    **dict.fromkeys(_SPACES.split(), " "),
    "\\ ": " ",
    **dict.fromkeys((r"\dfrac", r"\tfrac", r"\cfrac"), r"\frac "),
    **dict.fromkeys((r"\dbinom", r"\tbinom"), r"\binom "),
    **dict.fromkeys((r"\textbf", r"\textit", r"\textrm", r"\textsf", r"\texttt", r"\textnormal", r"\mbox"), r"\text"),
    **dict.fromkeys((r"\mathrm", r"\mathbf", r"\mathit", r"\mathsf", r"\boldsymbol", r"\operatorname"), r"\text"),
    **dict.fromkeys((r"\times", r"\cdot", r"\ast"), "*"),
    **dict.fromkeys((r"\lvert", r"\rvert", r"\vert", r"\mid", r"\|"), "|"),
    **dict.fromkeys((r"\leq", r"\leqslant"), r"\le "),
    **dict.fromkeys((r"\geq", r"\geqslant"), r"\ge "),
    **{r"\div": "/", r"\neq": r"\ne ", r"\lt": "<", r"\gt": ">", r"\colon": ":", r"\%": "%", r"\$": "$"},
    **{r"\lbrace": r"\{", r"\rbrace": r"\}", r"\varnothing": r"\emptyset ", r"\degree": r"^\circ "},
}
_TOKEN = re.compile(r"\\\\|\\[A-Za-z]+|\\.|\$|~", re.DOTALL)
# 10{,}000 and 10,\!000 and 10\,000: a comma or a gap that is typeset inside a number.
_TYPESET_THOUSANDS = re.compile(r"(?<=[0-9])(?:\{,\}|,\\!|\\,|\\!|~)(?=[0-9]{3}(?![0-9]))")
_ROOT_SIGN = re.compile(r"√\s*([0-9]+)?")
_INFINITY = re.compile(r"(?<![A-Za-z\\])[Ii]nfinity(?![A-Za-z])")
# Between letters and digits a space tells two things apart; anywhere else it tells nothing.
_IDLE_SPACE = re.compile(r"(?<![A-Za-z0-9]) | (?![A-Za-z0-9])")


def clean(text: str) -> str:
    """Return an answer in one spelling: no styles, no spacing, no `$` around mathematics, ASCII for signs and dots.

    Args:
        text: of bounded length; every step takes time proportional to it.
    """
    text = _TYPESET_THOUSANDS.sub("", text)
    text = _ROOT_SIGN.sub(lambda found: rf"\sqrt{{{found[1]}}}" if found[1] else r"\sqrt ", text)
    text = _INFINITY.sub(r"\\infty ", text.translate(_UNICODE))
    # An odd number of plain dollar signs is money, an even number stands around mathematics.
    money = len(re.findall(r"(?<!\\)\$", text)) % 2 == 1
    commands = _COMMANDS if money else {**_COMMANDS, "$": ""}
    text = _TOKEN.sub(lambda found: commands.get(found[0], found[0]), text)
    text = text.replace("**", "^").replace("<=", r"\le ").replace(">=", r"\ge ")
    return " ".join(text.split()).rstrip(".,;: ")


def compact(text: str) -> str:
    """Return a cleaned text without the spaces that mean nothing, for comparison."""
    return _IDLE_SPACE.sub("", text)
