"""Text of models made visible: characters that a page would swallow, or that would rearrange it, are spelled out."""

from __future__ import annotations

import unicodedata

# Line breaks and tabs are shown by their effect.
_KEPT = "\n\t"


def visible(text: str, *, spaces: bool = False) -> str:
    """Return a text in which every character can be seen.

    Control characters become their pictures (U+2400 on) or, with marks of direction, lone surrogates and the like,
    their code in brackets.

    Args:
        text: any text.
        spaces: mark line breaks and tabs, too, before they take effect.
    """
    if text.isprintable():
        return text
    return "".join(_shown(character, spaces) for character in text)


def _shown(character: str, spaces: bool) -> str:
    if character in _KEPT:
        return {"\n": "↵\n", "\t": "→\t"}[character] if spaces else character
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "␡"
    # Cc and Cf hold C1 controls and all marks of direction; joiners are part of ordinary words and emoji.
    if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") and character not in "\u200c\u200d":
        return f"⟨U+{code:04X}⟩"
    return character
