"""What a question is about, read from its words."""

from __future__ import annotations

import re

# How people begin to ask for a thing; what follows is the topic.
_LEADS = re.compile(
    r"^(?:question|guess|my guess|final guess|the answer|the secret|so|ok|okay)\b[\s:,]*|"
    r"^(?:is it|is this|is that|it is|it's|could it be|is the answer|is the secret|is|are they)\b\s*",
)
_ARTICLE = re.compile(r"^(?:(?:a|an|the|some|any|kind of|type of|sort of|piece of)\b\s*)+")


def topic_of(question: str) -> str:
    """Return what a turn asks for, in small letters and without an article: "Is it a cat?" asks for "cat".

    Questions of another form ("Can it fly?") are their own topic.
    """
    lines = [line for line in question.lower().splitlines() if line.strip()]
    text = lines[-1] if lines else ""
    text = re.sub(r"[^\w\s'-]", " ", text).strip()
    text = " ".join(text.split())
    while match := _LEADS.match(text):
        text = text[match.end() :].strip()
    return _ARTICLE.sub("", text).strip()
