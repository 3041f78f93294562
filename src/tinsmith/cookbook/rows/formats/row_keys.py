"""What becomes of the keys of a row beside those that say what is learned: refused by name, or not used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tinsmith.cookbook.rows.row_notes import RowNotes
from tinsmith.types.errors import invalid

_PICTURES = "none: models here read texts alone"
_IDS = "none beside a text: rows are rendered here; Batches(examples=...) takes tokens and weights of your own"
_WEIGHTS = "none: messages have a weight, 0 or 1, and data=a.jsonl:0.7,b.jsonl:0.3 weights files, but rows have none"
_THINKING = "none beside the messages: as reasoning_content in the message of the assistant"
_TEMPLATE = "none: the format says what it says without; renderer_name= chooses another"
_KTO = "none: completions that are marked good or bad are not for supervised training; leave out the bad ones"
# What no model here can read.
PICTURES = ("image", "images", "video", "videos", "audio", "audios")
# What says something that is learned, or is not, and cannot be said here.
_REFUSED = {
    **dict.fromkeys(PICTURES, _PICTURES),
    **dict.fromkeys(("input_ids", "token_ids", "completion_mask", "assistant_masks", "loss_mask"), _IDS),
    **dict.fromkeys(("reasoning_content", "reasoning", "thinking"), _THINKING),
    **dict.fromkeys(("chat_template_kwargs", "chat_template", "enable_thinking", "reasoning_effort"), _TEMPLATE),
    "documents": "none: what the model should read belongs in a message",
    "completions": "one completion, as completion",
    "margin": "none: how much better an answer is changes nothing here; leave the column out",
    "segments": "none beside another form of the row: segments, or messages, or a text",
    "adapter_names": "none: one adapter is trained",
}
# Numbers and flags under these names are weights; words are some other thing that the row was called after.
_NUMBERS = {
    **dict.fromkeys(("weight", "weights", "sample_weight", "loss_weight", "loss_scale"), _WEIGHTS),
    **dict.fromkeys(("mask", "masks", "train", "training", "trainable", "loss", "train_on_inputs"), _WEIGHTS),
    "labels": _IDS,
}
_FLAGS = {"label": _KTO, "kto_tag": _KTO}


def settle_keys_of_question(row: Mapping[str, Any], used: Iterable[str], notes: RowNotes) -> None:
    """As `settle_keys`, for a row of which only a question is asked: whatever answers stand in it teach nothing.

    Raises:
        UserError: a key says more of the question than its text.
    """
    for key, value in _given(row, used):
        if key in PICTURES:
            raise invalid(key, value, _PICTURES)
        notes.unused(key)


def settle_keys(row: Mapping[str, Any], used: Iterable[str], notes: RowNotes) -> None:
    """Refuse keys that say something which cannot be honoured, and note those that nothing is done with.

    Args:
        row: as it came.
        used: keys that are honoured.
        notes: takes the others.

    Raises:
        UserError: a key cannot be honoured; says what to do.
    """
    for key, value in _given(row, used):
        if key in _REFUSED:
            raise invalid(key, value, _REFUSED[key])
        said = _plain(value)
        numbers = said if isinstance(said, list) else [said]
        if key in _NUMBERS and all(isinstance(number, bool | int | float) for number in numbers):
            # 1 is what a row has without it.
            if said != 1:
                raise invalid(key, value, _NUMBERS[key])
        elif key in _FLAGS and isinstance(said, bool):
            raise invalid(key, value, _FLAGS[key])
        else:
            notes.unused(key)


def _given(row: Mapping[str, Any], used: Iterable[str]) -> list[tuple[str, Any]]:
    """Return the keys that are not used, in their order, with values that say something."""
    # Exporters write null, and lists and texts without anything in them, where a row has none.
    taken = frozenset(used)
    return [
        (str(key), value)
        for key, value in row.items()
        if key not in taken and value is not None and (value or isinstance(value, bool | int | float))
    ]


def _plain(value: Any) -> Any:
    """Return a number or a flag that a table has as a text, or the value as it is."""
    if not isinstance(value, str):
        return value
    try:
        return {"true": True, "false": False}[value.lower()] if value.lower() in ("true", "false") else float(value)
    except ValueError:
        return value
