"""Folders as people have them: the tokenizer is `AutoTokenizer`'s, whatever the files beside `tokenizer.json` say."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from tests.cookbook.renderers.generated import AROUND, KINDS, generated_tokenizer
from tinsmith import UserError, get_tokenizer

TEXTS = [
    "hello",
    " hello there",
    "<s>hello</s> hi\n<|end|> \nwhat",
    "a<new>b<|user|>hello",
    "",
    "  two  spaces , and . marks ?",
    "é日 it is n't",
    "<extra> <img>",
]
# A change of the files; each comes with every kind of tokenizer.
CHANGES: dict[str, dict[str, Any]] = {
    "nothing": {},
    "flags": {"tokenizer_config": {"add_bos_token": True, "add_eos_token": True}},
    "dicts": {
        "tokenizer_config": {
            "bos_token": {"__type": "AddedToken", "content": "<s>", "lstrip": False, "normalized": False},
            "pad_token": {"__type": "AddedToken", "content": "<pad>", "special": True},
        }
    },
    "declared": {
        "tokenizer_config": {
            "added_tokens_decoder": {
                "9001": {"content": "<new>", "special": False, "lstrip": True},
                "9000": {"content": "<pad>", "special": True, "normalized": False},
            },
            "pad_token": "<pad>",
        }
    },
    "redeclared": {
        "tokenizer_config": {"added_tokens_decoder": {"3": {"content": "<|user|>", "special": True, "rstrip": True}}}
    },
    "named": {"tokenizer_config": {"mask_token": "<mask>", "image_token": "<img>"}},
    "further": {"tokenizer_config": {"extra_special_tokens": ["<extra>", "<|user|>"]}},
    "further by name": {"tokenizer_config": {"extra_special_tokens": {"image_token": "<img>"}}},
    "older": {"tokenizer_config": {"additional_special_tokens": ["<extra>"]}},
    "oldest": {
        "special_tokens_map": {"eos_token": {"content": "<|im_end|>", "lstrip": False}, "pad_token": "<new>"},
        "added_tokens": {"<new>": 9001, "<img>": 9000},
    },
    "split": {"tokenizer_config": {"split_special_tokens": True}},
    "cleaned": {"tokenizer_config": {"clean_up_tokenization_spaces": True}},
    "cut": {
        "tokenizer": {
            "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
            "padding": {
                "strategy": {"Fixed": 9},
                "direction": "Right",
                "pad_to_multiple_of": None,
                "pad_id": 1,
                "pad_type_id": 0,
                "pad_token": "<s>",
            },
        }
    },
}
LLAMA: dict[str, dict[str, Any]] = {
    "first": {"tokenizer_config": {"tokenizer_class": "LlamaTokenizer"}},
    "legacy": {"tokenizer_config": {"tokenizer_class": "LlamaTokenizerFast", "legacy": True}},
    "never": {"tokenizer_config": {"tokenizer_class": "LlamaTokenizer", "add_prefix_space": False}},
    "declared": {
        "tokenizer_config": {
            "tokenizer_class": "LlamaTokenizer",
            "added_tokens_decoder": {"900": {"content": "<|user|>", "special": True}},
        }
    },
    "a llama": {"tokenizer_config": {"tokenizer_class": "LlamaTokenizer"}, "config": {"model_type": "llama"}},
    "a mistral": {"tokenizer_config": {"tokenizer_class": "LlamaTokenizer"}, "config": {"model_type": "mistral"}},
    "no names": {"tokenizer_config": {"tokenizer_class": "LlamaTokenizer", "bos_token": None, "eos_token": None}},
}


def write(folder: Path, kind: str, around: str, changes: dict[str, dict[str, Any]]) -> Path:
    generated_tokenizer(kind, "bare", around).save_pretrained(folder)
    for name, fields in changes.items():
        file = folder / f"{name}.json"
        present = json.loads(file.read_text()) if file.is_file() else {}
        file.write_text(json.dumps({k: v for k, v in {**present, **fields}.items() if v is not None}))
    return folder


def compare(folder: Path) -> None:
    ours, theirs = get_tokenizer(str(folder)), AutoTokenizer.from_pretrained(folder)
    assert ours.get_vocab() == theirs.get_vocab()
    assert len(ours) == len(theirs)
    assert ours.vocab_size == theirs.vocab_size
    assert ours.special_tokens_map == theirs.special_tokens_map
    assert ours.all_special_tokens == theirs.all_special_tokens
    assert ours.all_special_ids == theirs.all_special_ids
    added = ours.backend_tokenizer.get_added_tokens_decoder()
    assert {i: repr(t) for i, t in added.items()} == {i: repr(t) for i, t in theirs.added_tokens_decoder.items()}
    for text in TEXTS:
        for special in (True, False):
            ids = ours.encode(text, add_special_tokens=special)
            assert ids == theirs.encode(text, add_special_tokens=special), text
            for skip in (True, False):
                assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)


@pytest.mark.parametrize("change", CHANGES)
def test_what_the_files_say(change: str, tmp_path: Path) -> None:
    drawn = random.Random(change)
    for kind in drawn.sample(list(KINDS), 4):
        compare(write(tmp_path / kind, kind, drawn.choice(list(AROUND)), CHANGES[change]))


@pytest.mark.parametrize("change", LLAMA)
def test_the_tokenizer_that_its_class_builds(change: str, tmp_path: Path) -> None:
    for kind in ("prepend", "metaspace_always_split"):
        compare(write(tmp_path / kind, kind, "bos", LLAMA[change]))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"bos_token": 7}, r"tokenizer_config\.json: bos_token: got 7, expected a token"),
        ({"extra_special_tokens": ["<a>", None]}, r"extra_special_tokens\[1\]: got None"),
        ({"added_tokens_decoder": {"x": {"content": "<a>"}}}, r"added_tokens_decoder\['x'\]: got 'x', expected an id"),
        ({"added_tokens_decoder": {"5": "<a>"}}, r"added_tokens_decoder\['5'\]: got '<a>', expected a token"),
        ({"added_tokens_decoder": ["<a>"]}, r"added_tokens_decoder: got \['<a>'\], expected an object"),
        ({"chat_template": [{"name": "x"}]}, r"chat_template: got \[\{'name': 'x'\}\], expected a template"),
        ({"chat_template": 5}, r"chat_template: got 5, expected a template"),
    ],
)
def test_what_is_no_token_is_named(fields: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = write(tmp_path, "byte_level", "none", {"tokenizer_config": fields})
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match=message):
        get_tokenizer(str(folder))
