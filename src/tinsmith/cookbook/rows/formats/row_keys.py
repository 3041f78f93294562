"""What becomes of the keys of a row beside those that say what is learned: refused by name, or not used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tinsmith.cookbook.rows.row_notes import RowNotes
from tinsmith.types.errors import invalid

_PICTURES = "none: models here read texts alone"
_IDS = "none beside a text: rows are rendered here; Batches(examples=...) takes tokens and weights of your own"
_WEIGHTS = "none: of a row, messages have weights, 0 or 1; data=a.jsonl:0.7,b.jsonl:0.3 weights files"
_THINKING = "none beside the messages: as reasoning_content in the message of the assistant"
_TEMPLATE = "none: renderer_name= chooses what the format says"
_KTO = "none: completions that are marked good or bad are not for supervised training; leave out the bad ones"
# What no model here can read.
PICTURES = ("image", "images", "video", "videos", "audio", "audios")
# What says something that is learned, or is not, and cannot be said here.
_REFUSED = {
    **dict.fromkeys(PICTURES, _PICTURES),
    **dict.fromkeys(("input_ids", "token_ids", "labels", "completion_mask", "assistant_masks", "loss_mask"), _IDS),
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
}
_FLAGS = {"label": _KTO, "kto_tag": _KTO}


def settle_keys_of_question(row: Mapping[str, Any], used: Iterable[str], notes: RowNotes) -> None:
    """As `settle_keys`, for a row of which only a question is asked: whatever answers stand in it teach nothing.

    Raises:
        UserError: a key says more of the question than its text.
    """
    for key in row.keys() - frozenset(used):
        if row[key] is None:
            continue
        if key in PICTURES and row[key]:
            raise invalid(key, row[key], _PICTURES)
        notes.unused(str(key))


def settle_keys(row: Mapping[str, Any], used: Iterable[str], notes: RowNotes) -> None:
    """Refuse keys that say something which cannot be honoured, and note those that nothing is done with.

    Args:
        row: as it came.
        used: keys that are honoured.
        notes: takes the others.

    Raises:
        UserError: a key cannot be honoured; says what to do.
    """
    for key in row.keys() - frozenset(used):
        value = row[key]
        if value is None:
            continue
        # Exporters write lists and texts without anything in them where a row has none.
        if key in _REFUSED and (value or isinstance(value, bool | int | float)):
            raise invalid(key, value, _REFUSED[key])
        # 1 is what a row has without it.
        if key in _NUMBERS and isinstance(value, bool | int | float | list) and value != 1:
            raise invalid(key, value, _NUMBERS[key])
        if key in _FLAGS and isinstance(value, bool):
            raise invalid(key, value, _FLAGS[key])
        notes.unused(str(key))
