"""Rows of any known format as rows of ours: `messages`, `text`, `prompt` and `completion`, or `segments`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tinsmith.cookbook.rows.formats import alpaca, sharegpt
from tinsmith.cookbook.rows.formats.chat_messages import own_messages
from tinsmith.cookbook.rows.formats.json_text import read_json
from tinsmith.cookbook.rows.formats.row_keys import settle_keys
from tinsmith.cookbook.rows.formats.tool_lists import own_tools
from tinsmith.cookbook.rows.row_notes import RowNotes
from tinsmith.types.errors import invalid

Row = dict[str, Any]
# Ours, in the order in which one is taken where a row repeats what it says in the form of another.
KINDS: tuple[tuple[str, ...], ...] = (("messages",), ("prompt", "completion"), ("text",), ("segments",))
# Those that are converted.
_TURNS = ("conversations", "conversation")
FOREIGN_KINDS: tuple[tuple[str, ...], ...] = (
    *((name,) for name in _TURNS),
    *(("instruction", output) for output in alpaca.OUTPUTS),
)
CONVERSATIONS = (("messages",), ("prompt", "completion"), *FOREIGN_KINDS)
EXPECTED = 'either "messages", "text", or "prompt" and "completion"'
# Columns of which nobody but the reader of the message can say what they are for.
_HINTS = {
    "response": '"response" as "completion"',
    "chosen": '"chosen" as "completion" to learn it; the recipe preference compares it with "rejected"',
    "preferred_output": '"preferred_output" as "completion" to learn it; the recipe preference compares both',
    "question": '"question" as "prompt", and its answer as "completion"',
    "output": '"output" as "completion", and "input" as "prompt"',
}
# Keys under which a row, of supervised training or a comparison, has a list.
LISTS = ("messages", "prompt", "completion", "segments", "tools", "functions", "history", "chosen", "rejected", *_TURNS)
SYSTEMS = ("system", "system_prompt", "system_message")
# Of a text row: how its tokens are made.
TEXT_OPTIONS = ("text_control_tokens", "text_eos")
# What repeats, under a name of its own, a part of the conversation: fine if it does.
_REPEATING = ("prompt", "completion", "text", "chosen", *alpaca.KEYS)


def expected_of(columns: Iterable[Any]) -> str:
    """Return what is expected in the place of columns that are no row, with what to do about some of them."""
    named = list(columns)
    return EXPECTED + "".join(f" (write {how})" for name, how in _HINTS.items() if name in named)


def own_row(row: Any, notes: RowNotes | None = None) -> Row:
    """Return a row as one of ours, in which nothing that says what is learned is left out.

    A row of ours comes back as it is; other keys stay in it.

    Args:
        row: of our own, or of ShareGPT, Alpaca, OpenAI, TRL or axolotl.
        notes: takes what is worth a line in a run's header.

    Raises:
        UserError: it is of no known kind, or of two, or has a key that cannot be honoured.
    """
    notes = notes or RowNotes()
    if not isinstance(row, dict):
        raise invalid("row", row, f"an object with {EXPECTED}")
    # Most rows of most files.
    if row.keys() == {"messages"}:
        messages = own_messages(row["messages"], "messages", notes)
        return row if messages is row["messages"] else {"messages": messages}
    row = _without_nulls_of_other_kinds(row)
    kind = _kind(row)
    if kind in (("text",), ("segments",)):
        return _text(row, kind[0], notes)
    if kind[0] in _TURNS:
        field = kind[0]
        notes.converted(sharegpt.NAME)
        found = _conversation(row, sharegpt.turns_to_messages(row[field], field), field, (*kind, "tools"), notes)
    elif kind[0] == "instruction":
        notes.converted(alpaca.NAME)
        found = _conversation(row, alpaca.conversation(row), "messages", alpaca.KEYS, notes)
    elif kind == ("messages",):
        turns = row["messages"]
        if isinstance(turns, list) and any(map(sharegpt.is_turn, turns)):
            notes.converted(sharegpt.NAME)
            turns = sharegpt.turns_to_messages(turns, "messages")
        found = _conversation(row, turns, "messages", kind, notes)
    else:
        found = _completion(row, notes)
    return found


def _without_nulls_of_other_kinds(row: Row) -> Row:
    """Drop the fields of other kinds that are null: a table of several kinds is written so."""
    kinds = (*KINDS, *FOREIGN_KINDS)
    given = {name for name, value in row.items() if value is not None}
    if not any(given.issuperset(kind) for kind in kinds):
        return row
    return {name: value for name, value in row.items() if name in given or not any(name in kind for kind in kinds)}


def _kind(row: Row) -> tuple[str, ...]:
    """Return the keys that a row is learned from.

    Raises:
        UserError: it has none of them, or those of two kinds that do not say the same.
    """
    found = [kind for kind in (*KINDS, *FOREIGN_KINDS) if all(key in row for key in kind)]
    if not found:
        raise invalid("row", sorted(map(str, row)), expected_of(row))
    if len(found) == 1:
        return found[0]
    # Data sets have the parts of a conversation beside it, or the text that somebody rendered of it. That they say the
    # same is checked where the conversation is known.
    conversations = [kind for kind in found if kind not in (("text",), ("prompt", "completion"))]
    if conversations[:1] == [("messages",)] and all(kind[0] in ("messages", "instruction") for kind in conversations):
        return ("messages",)
    if len(conversations) == 1 and conversations[0] != ("segments",):
        return conversations[0]
    raise invalid("row", sorted(map(str, row)), f"{EXPECTED}, one of them")


def _text(row: Row, field: str, notes: RowNotes) -> Row:
    options = TEXT_OPTIONS if field == "text" else ()
    for key in options:
        if not isinstance(row.get(key, False), bool):
            raise invalid(key, row[key], "true or false")
    for key in (*SYSTEMS, "tools", "functions", "prompt", "completion", *alpaca.KEYS):
        if row.get(key):
            raise invalid(key, row[key], f"none beside {field}: a conversation has messages")
    settle_keys(row, (field, *options), notes)
    return row


def _conversation(row: Row, messages: Any, field: str, used: Sequence[str], notes: RowNotes) -> Row:
    """Return a row with messages: those of a conversation, and what stands beside it."""
    said = own_messages(messages, field, notes)
    said = add_system(row, said, notes)
    _check_repeated(row, said, used)
    return _finished(row, {"messages": said}, ("messages", *used), notes)


def _completion(row: Row, notes: RowNotes) -> Row:
    found: Row = {}
    for key in ("prompt", "completion"):
        value = row[key]
        if isinstance(value, list) and any(map(sharegpt.is_turn, value)):
            value = sharegpt.turns_to_messages(value, key)
        found[key] = own_messages(value, key, notes)
    if any(row.get(key) for key in SYSTEMS):
        asked = found["prompt"]
        asked = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
        found["prompt"] = add_system(row, asked, notes)
    said = [{"content": value} for value in found.values() if isinstance(value, str)]
    _check_repeated(row, said, ("prompt", "completion"))
    return _finished(row, found, ("prompt", "completion"), notes)


def _finished(row: Row, found: Row, used: Sequence[str], notes: RowNotes) -> Row:
    """Return a converted row with its tools and all keys that nothing is done with."""
    tools = own_tools(row)
    if tools is not None:
        found["tools"] = tools
    taken = {*used, "tools", "functions", *SYSTEMS}
    settle_keys(row, taken, notes)
    # A field that was null stays so.
    kept = {key: value for key, value in row.items() if key not in taken or (key == "tools" and value is None)}
    return {**found, **{key: value for key, value in kept.items() if key not in found}}


def add_system(row: Mapping[str, Any], messages: Any, notes: RowNotes) -> Any:
    """Put a system text that stands beside a conversation before its first message.

    Args:
        row: perhaps with one of `SYSTEMS`.
        messages: the conversation; anything else than a list is returned as it is, for the check.
        notes: of the row.

    Raises:
        UserError: the conversation begins with another system message, or the row has two.
    """
    given = [key for key in SYSTEMS if row.get(key)]
    if not given or not isinstance(messages, list):
        return messages
    key, system = given[0], row[given[0]]
    if len(given) > 1:
        raise invalid(given[1], row[given[1]], f"none beside {key}, another name of the same")
    if not isinstance(system, str):
        (message,) = own_messages([{"role": "system", "content": system}], key, notes)
        system = message["content"]
    first = messages[0] if messages else None
    if isinstance(first, Mapping) and first.get("role") == "system":
        if first.get("content") == system:
            return messages
        raise invalid(key, system, "none beside a system message: the conversation begins with another one")
    return [{"role": "system", "content": system}, *messages]


def _check_repeated(row: Row, messages: Any, used: Iterable[str]) -> None:
    """Check that texts beside a conversation say nothing that is not in it: many data sets repeat its prompt.

    Raises:
        UserError: one does.
    """
    taken = frozenset(used)
    said = [m["content"] for m in messages if isinstance(m, Mapping) and isinstance(m.get("content"), str)]
    for key in _REPEATING:
        value = row.get(key)
        if key in taken or not value:
            continue
        if isinstance(value, str):
            text = value.strip()
            # The whole conversation, rendered by somebody, or a part of it.
            known = any(text in one for one in said) or (bool(said) and all(one.strip() in text for one in said))
        else:
            known = value == row.get("messages")
        if not known:
            raise invalid(key, value, "none beside the conversation, which does not say it")
    if row.get("rejected") and not row.get("chosen"):
        raise invalid("rejected", row["rejected"], "none: the recipe preference learns from comparisons")


def parse_segments(segments: Any) -> list[tuple[str, bool]]:
    """Return the parts of a text, each with whether it is learned: axolotl's `[{"text": ..., "label": true}, ...]`.

    Raises:
        UserError: they are no such list, or nothing is learned.
    """
    parts = read_json(segments, "segments", "a list of parts of a text")
    if not isinstance(parts, list) or not parts:
        raise invalid("segments", parts, 'a list of parts, {"text": ..., "label": true or false}')
    found: list[tuple[str, bool]] = []
    for index, part in enumerate(parts):
        field = f"segments[{index}]"
        if not isinstance(part, Mapping) or not isinstance(part.get("text"), str):
            raise invalid(field, part, 'a part, {"text": ..., "label": true or false}')
        if not isinstance(part.get("label"), bool):
            raise invalid(f"{field}.label", part.get("label"), "true or false")
        found.append((part["text"], part["label"]))
    if not any(label and text for text, label in found):
        raise invalid("segments", f"{len(found)} parts", "one at least that is learned, with label true")
    return found
