"""Pages to read: what a run saw, said and learned at a step, as self-contained HTML without scripts."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tinsmith.cookbook.runs.jsonl import replace_text
from tinsmith.cookbook.runs.transcripts.rendering import render
from tinsmith.cookbook.runs.transcripts.run_index import note_answers, write_index
from tinsmith.cookbook.runs.transcripts.visible import visible
from tinsmith.types.errors import invalid

logger = logging.getLogger("tinsmith.cookbook")
_MESSAGE_FIELDS = ("tool_calls", "unparsed_tool_calls")


class Page:
    """A self-contained page without scripts, filled block by block.

    Any text is safe: it is escaped, characters that cannot be seen are spelled out, and the direction of a script does
    not leak out of its block.

    Args:
        title: above it.
    """

    def __init__(self, title: str) -> None:
        self._title = title
        self._blocks: list[dict[str, Any]] = []

    def heading(self, text: str) -> None:
        """Begin a section."""
        self._blocks.append({"kind": "heading", "text": visible(text)})

    def text(self, text: str) -> None:
        """Add a text; its line breaks stay."""
        self._blocks.append({"kind": "text", "text": visible(text)})

    def conversation(
        self,
        messages: Sequence[Mapping[str, Any]],
        note: str = "",
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        """Add a conversation: roles, texts, thinking and tool calls; a turn that was sampled is marked.

        Args:
            messages: as renderers take them; one with `tokens`, or with `sampled` set, was sampled.
            note: below it, e.g. a reward or a grade.
            tools: that the assistant may call, shown above it.
        """
        told = [
            {
                "role": visible(str(message.get("role", ""))),
                "sampled": "tokens" in message or bool(message.get("sampled")),
                "parts": _parts(message),
            }
            for message in messages
        ]
        self._blocks.append(
            {
                "kind": "conversation",
                "messages": told,
                "note": visible(note),
                "tools": [_tool(tool) for tool in tools or ()],
                "sampled": any(message["sampled"] for message in told),
            }
        )

    def tokens(
        self,
        texts: Sequence[str],
        weights: Sequence[float] | None = None,
        logprobs: Sequence[float | None] | None = None,
        ids: Sequence[int] | None = None,
        sampled: Sequence[bool] | None = None,
    ) -> None:
        """Add tokens one by one, coloured; the pointer shows the numbers of each.

        Args:
            texts: of the tokens, in order.
            weights: of each in the loss, or its advantage: a tint, red below zero, as strong as its share of the
                largest.
            logprobs: of each, in nats: a line below, as strong as the token is unlikely.
            ids: of each.
            sampled: whether the model said it; the others, which it read, are pale.

        Raises:
            UserError: there are not as many numbers as tokens.
        """
        for name, numbers in (
            ("weights", weights),
            ("logprobs", logprobs),
            ("ids", ids),
            ("sampled", sampled),
        ):
            if numbers is not None and len(numbers) != len(texts):
                raise invalid(name, f"{len(numbers)} numbers", f"{len(texts)}, one for each token")
        # Relative to the page: advantages have no natural scale. 1.0 where nothing carries weight.
        largest = max((abs(weight) for weight in weights or ()), default=0.0) or 1.0
        told = []
        for place, text in enumerate(texts):
            weight = None if weights is None else weights[place]
            logprob = None if logprobs is None else logprobs[place]
            told.append(
                {
                    "text": visible(text, spaces=True),
                    "tint": round(abs(weight or 0.0) / largest, 3),
                    "negative": (weight or 0.0) < 0,
                    "read": sampled is not None and not sampled[place],
                    # 1 - p, so that what was certain is not underlined at all; rounding may lift a logprob above 0.
                    "unlikely": 0.0 if logprob is None else round(1 - math.exp(min(0.0, logprob)), 3),
                    "told": _numbers_of(place, None if ids is None else ids[place], weight, logprob),
                }
            )
        kinds = {"weights": weights is not None, "logprobs": logprobs is not None, "sampled": sampled is not None}
        self._blocks.append({"kind": "tokens", "tokens": told, **kinds})

    def table(self, rows: Sequence[Mapping[str, object]]) -> None:
        """Add a table; the columns are the names of all rows, in the order in which they appear."""
        columns = list(dict.fromkeys(name for row in rows for name in row))
        cells = [[_cell(row.get(column)) for column in columns] for row in rows]
        self._blocks.append({"kind": "table", "columns": [visible(column) for column in columns], "rows": cells})

    def html(self, *, index: str | None = None) -> str:
        """Return the page; `index` is a page to link to."""
        return render("transcript.html", title=visible(self._title), blocks=self._blocks, index=index)


class Transcript(Page):
    """A page of one step, written when the `with` block ends; where the disk fails there is a warning and no page.

    Args:
        folder: of the pages; `index.html` lists them.
        step: whose page it is.
        title: above it.
    """

    def __init__(self, folder: Path, step: int, title: str) -> None:
        super().__init__(f"{title}: step {step}")
        self.path = folder / f"step-{step:06d}.html"
        self._step = step
        self._run_title = title

    def __enter__(self) -> Transcript:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._blocks:
            return  # nothing to read
        page = self.html(index="index.html")
        folder = self.path.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # The page before the index that lists it.
            replace_text(self.path, page)
            note_answers(folder, self._step, self._blocks)
            write_index(folder, self._run_title)
        except OSError as fault:
            logger.warning(f"{self.path}: this page cannot be written ({fault.strerror}); the run goes on")


def _parts(message: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what a message holds, each with its kind: text, thinking, or the name of another field."""
    found: list[tuple[str, str]] = []
    if message.get("reasoning_content"):
        found.append(("thinking", visible(str(message["reasoning_content"]))))
    content = message.get("content")
    for part in content if isinstance(content, list) else [{"type": "text", "text": content or ""}]:
        kind = part.get("type", "")
        text = part.get(kind) if kind in ("text", "thinking") else json.dumps(part, ensure_ascii=False, default=str)
        if text or kind != "text":
            found.append((kind, visible(str(text))))
    for field in _MESSAGE_FIELDS:
        for value in message.get(field) or ():
            value = value if isinstance(value, Mapping) else str(value)
            found.append((field, visible(json.dumps(value, ensure_ascii=False, indent=1, default=str))))
    return found or [("text", "")]


def _tool(tool: Mapping[str, Any]) -> dict[str, str]:
    function = tool.get("function")
    told = function if isinstance(function, Mapping) else tool
    parameters = told.get("parameters")
    return {
        "name": visible(str(told.get("name", ""))),
        "description": visible(str(told.get("description") or "")),
        "parameters": visible(json.dumps(parameters, ensure_ascii=False, default=str)) if parameters else "",
    }


def _numbers_of(place: int, token: int | None, weight: float | None, logprob: float | None) -> str:
    told = [f"token {place}"]
    if token is not None:
        told.append(f"id {token}")
    if weight is not None:
        told.append(f"weight {weight:.4g}")
    if logprob is not None:
        told.append(f"logprob {logprob:.4g}, probability {math.exp(min(0.0, logprob)):.1%}")
    return " · ".join(told)


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else visible("" if value is None else str(value))
