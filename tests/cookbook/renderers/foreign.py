"""Tokenizers for chat templates that no renderer here was written for."""

from __future__ import annotations

import functools
import re
from importlib.resources import files

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.cookbook.renderers.formats import published_template

# What the templates of the `trl` wheel use as control tokens.
_CONTROL = re.compile(
    r"<\|[\w:]+\|?>|<[\w]+\|>|<｜[\w▁]+｜>|</?(?:think|tool_call|tool_response|start_of_turn|end_of_turn)>"
)


def template_names(ending: str = "") -> list[str]:
    """Return the names of the wheel's templates of text models."""
    pictures = ("vl", "llava", "idefics", "smolvlm", "diffusion")
    names = sorted(path.name.removesuffix(".jinja") for path in files("trl").joinpath("chat_templates").iterdir())
    return [n for n in names if n.endswith(ending) and "." not in n and not any(p in n for p in pictures)]


@functools.cache
def foreign_tokenizer(name: str, merges: bool = False) -> PreTrainedTokenizerFast:
    """Return a tokenizer of bytes and of the control tokens that a template spells; `merges` joins line breaks."""
    template = published_template(name)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    joined = [("Ċ", "Ċ"), ("ĊĊ", "Ċ")] if merges else []
    vocabulary = [*alphabet, *("".join(pair) for pair in joined)]
    backend = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(vocabulary)}, merges=joined))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    named = {"bos_token": "<bos>", "eos_token": "<eos>"}
    controls = sorted({*_CONTROL.findall(template), *named.values()})
    backend.add_special_tokens([AddedToken(token, special=True) for token in controls])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, chat_template=template, clean_up_tokenization_spaces=False, **named
    )
