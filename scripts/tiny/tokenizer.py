"""The tokenizer of tinsmith-tiny: every byte is a token (id = the byte), then the control tokens.

No merges: one letter is one token, so that letter tasks are about letters, and any text round-trips.
"""

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

SYSTEM, USER, ASSISTANT, TOOL = "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>"
END, END_OF_TEXT = "<|end|>", "<|endoftext|>"
MARKUP = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>")
RESERVED = tuple(f"<|reserved_{i}|>" for i in range(12))
# Their order fixes the ids 256..279: append only.
CONTROL = (END_OF_TEXT, END, SYSTEM, USER, ASSISTANT, TOOL, *MARKUP, *RESERVED)
ID = {token: 256 + i for i, token in enumerate(CONTROL)}
VOCAB_SIZE = 256 + len(CONTROL)
CONTEXT = 1024

CHAT_TEMPLATE = Path(__file__).with_name("chat_template.jinja")


def byte_alphabet() -> list[str]:
    """The printable character that stands for each byte 0..255 in the ByteLevel alphabet.

    Printable Latin-1 bytes stand for themselves, the others are numbered from U+0100 on, as in GPT-2.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = (b for b in range(256) if b not in printable)
    shifted = {byte: 0x100 + i for i, byte in enumerate(others)}
    return [chr(shifted.get(byte, byte)) for byte in range(256)]


def build_tokenizer() -> Tokenizer:
    """Byte tokens and control tokens; adds no token of its own to a text."""
    vocab = {char: byte for byte, char in enumerate(byte_alphabet())}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    # Markup stays visible when special tokens are skipped: it is part of what the model says.
    tokenizer.add_tokens([AddedToken(token, special=token not in MARKUP, normalized=False) for token in CONTROL])
    return tokenizer


def save_tokenizer(folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json, special_tokens_map.json and chat_template.jinja."""
    build_tokenizer().save(str(folder / "tokenizer.json"))
    special = {"eos_token": END, "pad_token": END_OF_TEXT}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": CONTEXT,
        "clean_up_tokenization_spaces": False,
        "bos_token": None,
        "unk_token": None,
        **special,
    }
    _write_json(folder / "tokenizer_config.json", config)
    _write_json(folder / "special_tokens_map.json", special)
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE.read_text())


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
