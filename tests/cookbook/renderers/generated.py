"""Tokenizers of every kind that people load, and chat templates of every shape, each small and made here."""

from __future__ import annotations

import functools
import json
import random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

_CORPUS = [
    "[INST] hello there [/INST] hi you USER: hello ASSISTANT: hello ### Question: what is it\n\n### Answer:\n it is",
    "user assistant system model \n hello\n\n  two  spaces 12 45 User: hello\n\nAssistant: hi\n\nUser:",
] * 20
CONTROLS = (
    "<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
    "<|user|>", "<|assistant|>", "<|system|>", "<start_of_turn>", "<end_of_turn>",
)  # fmt: skip
# Phi-3's: the blanks behind it are part of it.
GRASPING = "<|end|>"

_INST = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% elif m.role == 'assistant' %}{{ m.content }}{{ eos_token }}"
    "{% else %}{{ raise_exception('no ' + m.role) }}{% endif %}{% endfor %}"
)
TEMPLATES = {
    "inst": _INST,
    "inst_spaced": _INST.replace("%}{{ m.content }}{{ e", "%} {{ m.content }}{{ e"),
    "llama2": (
        "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token }}[INST] {{ m.content | trim }} [/INST]"
        "{% elif m.role == 'assistant' %} {{ m.content | trim }} {{ eos_token }}{% endif %}{% endfor %}"
    ),
    "chatml": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "llama3": (
        "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
        "{{ m.content | trim }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
    ),
    "phi3": (
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    ),
    "zephyr": (
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{{ eos_token }}\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    ),
    "gemma": (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<end_of_turn>\n"
        "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
    ),
    "bare": (
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}</s>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    ),
    "vicuna": (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}USER: {{ m.content }} ASSISTANT:"
        "{% elif m.role == 'assistant' %} {{ m.content }}</s>{% endif %}{% endfor %}"
    ),
    "marked": (
        "{% for m in messages %}<|{{ m.role }}|>\n{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
        "{{ eos_token }}{% endgeneration %}{% else %}{{ m.content }}{{ eos_token }}{% endif %}\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    ),
}
# What a tokenizer puts around a text.
AROUND = {"none": "$A", "bos": "<s> $A", "eos": "$A </s>", "both": "<s> $A </s>"}


def _sentencepiece(backend: Tokenizer, scheme: str) -> None:
    """Set the parts that spaces go through: as a normalizer, or as a pre-tokenizer with a scheme."""
    if scheme == "prepend":
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace("▁", scheme.removesuffix("_split"), scheme.endswith("_split"))
    strip = [] if scheme.startswith("never") else [decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip])


def _bpe(scheme: str) -> Tokenizer:
    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    _sentencepiece(backend, scheme)
    alphabet = [chr(c) for c in range(33, 127)] + ["▁"]
    backend.train_from_iterator(
        _CORPUS,
        trainers.BpeTrainer(
            vocab_size=600,
            initial_alphabet=alphabet,
            special_tokens=["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))],
        ),
    )
    # The trainer makes the bytes special tokens; in published tokenizers they are ordinary ones.
    vocabulary = backend.get_vocab()
    merges = [tuple(merge) for merge in json.loads(backend.to_str())["model"]["merges"]]
    other = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    _sentencepiece(other, scheme)
    return other


def _byte_level(prefix: bool) -> Tokenizer:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(_CORPUS, trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet))
    return backend


def _unigram() -> Tokenizer:
    backend = Tokenizer(models.Unigram())
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace("▁", "always")
    backend.decoder = decoders.Metaspace("▁", "always")
    alphabet = [chr(c) for c in range(33, 127)] + ["▁", "\n"]
    backend.train_from_iterator(
        _CORPUS,
        trainers.UnigramTrainer(vocab_size=300, initial_alphabet=alphabet, special_tokens=["<unk>"], unk_token="<unk>"),
    )
    return backend


def _wordpiece() -> Tokenizer:
    backend = Tokenizer(models.WordPiece(unk_token="<unk>"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=False)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(cleanup=False)
    backend.train_from_iterator(
        _CORPUS,
        trainers.WordPieceTrainer(
            vocab_size=400, initial_alphabet=[chr(c) for c in range(33, 127)], special_tokens=["<unk>"]
        ),
    )
    return backend


def _gemma() -> Tokenizer:
    backend = _bpe("never")
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(" "), "merged_with_previous")
    return backend


KINDS = {
    "byte_level": functools.partial(_byte_level, False),
    "byte_level_prefix": functools.partial(_byte_level, True),
    "prepend": functools.partial(_bpe, "prepend"),
    "metaspace_first": functools.partial(_bpe, "first"),
    "metaspace_always": functools.partial(_bpe, "always"),
    "metaspace_never": functools.partial(_bpe, "never"),
    "metaspace_always_split": functools.partial(_bpe, "always_split"),
    "gemma": _gemma,
    "unigram": _unigram,
    "wordpiece": _wordpiece,
}
# Their tokens do not spell every text: spaces or rare letters go.
LOSSY = ("unigram", "wordpiece")


@functools.cache
def generated_tokenizer(kind: str, template: str, around: str = "none", grasping: int = 0) -> PreTrainedTokenizerFast:
    """Return a tokenizer of a kind, with a template of `TEMPLATES` and a post-processor of `AROUND`.

    Args:
        kind: of `KINDS`.
        template: a name.
        around: a name.
        grasping: seed of which control tokens take the blanks beside them; 0: only Phi-3's.
    """
    backend = Tokenizer.from_str(_trained(kind))
    drawn = random.Random(grasping)
    for control in (*CONTROLS, GRASPING):
        taken = [drawn.random() < 0.3, drawn.random() < 0.3] if grasping else [False, control == GRASPING]
        token = AddedToken(control, special=True, normalized=False, lstrip=taken[0], rstrip=taken[1])
        backend.add_special_tokens([token])
    if around != "none":
        named = [(token, backend.token_to_id(token)) for token in ("<s>", "</s>")]
        backend.post_processor = processors.TemplateProcessing(single=AROUND[around], special_tokens=named)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        chat_template=TEMPLATES[template],
        clean_up_tokenization_spaces=False,
    )


@functools.cache
def _trained(kind: str) -> str:
    return KINDS[kind]().to_str()
