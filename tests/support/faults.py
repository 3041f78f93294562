"""What can be wrong with a checkpoint's folder: one fault each, and what a message about it has to name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 123\n"
UP = "model.layers.0.mlp.up_proj.weight"
# Leaves a field out.
ABSENT = object()

Spoil = Callable[[Path], None]


@dataclass(frozen=True)
class Fault:
    """A way to spoil a sound folder.

    Attributes:
        name: of the test.
        spoil: does it.
        told: what the message has to hold, file and field first.
    """

    name: str
    spoil: Spoil
    told: tuple[str, ...]


def setting(file: str, **fields: object) -> Spoil:
    """Return what changes fields of a JSON file."""

    def spoil(folder: Path) -> None:
        path = folder / file
        content: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        content = {k: v for k, v in {**content, **fields}.items() if v is not ABSENT}
        path.write_text(json.dumps(content))

    return spoil


def text(file: str, content: str) -> Spoil:
    """Return what gives a file other contents."""
    return lambda folder: _write(folder / file, content.encode())


def raw(file: str, content: bytes) -> Spoil:
    """Return what gives a file other bytes."""
    return lambda folder: _write(folder / file, content)


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def cut(file: str, keep: int) -> Spoil:
    """Return what cuts a file off."""
    return lambda folder: _write(folder / file, (folder / file).read_bytes()[:keep])


def tensors(change: Callable[[dict[str, torch.Tensor]], None]) -> Spoil:
    """Return what changes the weights."""

    def spoil(folder: Path) -> None:
        weights = load_file(folder / WEIGHTS)
        change(weights)
        save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})

    return spoil


def put(name: str, make: Callable[[torch.Tensor], torch.Tensor]) -> Spoil:
    """Return what changes one tensor."""
    return tensors(lambda weights: weights.update({name: make(weights[name]).contiguous()}))


def shards(**change: object) -> Spoil:
    """Return what writes the weights as two files and an index, then changes fields of the index."""

    def spoil(folder: Path) -> None:
        weights = load_file(folder / WEIGHTS)
        (folder / WEIGHTS).unlink()
        names = sorted(weights)
        half = len(names) // 2
        places = {name: FIRST if i < half else SECOND for i, name in enumerate(names)}
        for file in (FIRST, SECOND):
            part = {name: tensor for name, tensor in weights.items() if places[name] == file}
            save_file(part, folder / file, metadata={"format": "pt"})
        index = {"metadata": {"total_size": 1}, "weight_map": places, **change}
        (folder / INDEX).write_text(json.dumps({k: v for k, v in index.items() if v is not ABSENT}))

    return spoil


def both(*spoils: Spoil) -> Spoil:
    """Return what does one after another."""

    def spoil(folder: Path) -> None:
        for one in spoils:
            one(folder)

    return spoil


def locked(file: str) -> Spoil:
    """Return what makes a file a folder, which nobody can read as a file (and no right of root helps)."""

    def spoil(folder: Path) -> None:
        (folder / file).unlink(missing_ok=True)
        (folder / file).mkdir()

    return spoil


def gone(file: str) -> Spoil:
    """Return what removes a file."""
    return lambda folder: (folder / file).unlink()


def only_bin(folder: Path) -> None:
    """Leave weights in the pickled form only."""
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")


def _nan(tensor: torch.Tensor) -> torch.Tensor:
    spoiled = tensor.clone()
    spoiled.view(-1)[7] = float("nan")
    return spoiled


def _infinite(tensor: torch.Tensor) -> torch.Tensor:
    spoiled = tensor.clone()
    spoiled.view(-1)[7] = float("-inf")
    return spoiled


CONFIG, GENERATION = "config.json", "generation_config.json"
TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
SPECIAL = "special_tokens_map.json"

FAULTS = [
    # -- config.json
    Fault("config gone", gone(CONFIG), (CONFIG,)),
    Fault("config empty", text(CONFIG, ""), (CONFIG, "empty")),
    Fault("config cut off", cut(CONFIG, 100), (CONFIG, "JSON")),
    Fault("config is a list", text(CONFIG, "[]"), (CONFIG, "object")),
    Fault("config is a pointer", text(CONFIG, POINTER), (CONFIG, "git-lfs")),
    Fault("config is no text", raw(CONFIG, b"\xff\xfe\x00"), (CONFIG, "UTF-8")),
    Fault("config unreadable", locked(CONFIG), (CONFIG,)),
    Fault("model_type gone", setting(CONFIG, model_type=ABSENT), (CONFIG, "model_type")),
    Fault("model_type unknown", setting(CONFIG, model_type="lama"), (CONFIG, "model_type", "lama")),
    Fault("model_type a number", setting(CONFIG, model_type=7), (CONFIG, "model_type", "7")),
    Fault(
        "context a float", setting(CONFIG, max_position_embeddings=256.0), (CONFIG, "max_position_embeddings", "256.0")
    ),
    Fault("context huge", setting(CONFIG, max_position_embeddings=10**30), (CONFIG, "max_position_embeddings")),
    Fault("context negative", setting(CONFIG, max_position_embeddings=-1), (CONFIG, "max_position_embeddings", "-1")),
    Fault("context null", setting(CONFIG, max_position_embeddings=None), (CONFIG, "max_position_embeddings")),
    Fault("hidden_size a text", setting(CONFIG, hidden_size="64"), (CONFIG, "hidden_size", "64")),
    Fault("hidden_size zero", setting(CONFIG, hidden_size=0), (CONFIG, "hidden_size", "0")),
    Fault("hidden_size wrong", setting(CONFIG, hidden_size=128), (WEIGHTS, "128", "config.json")),
    Fault("heads zero", setting(CONFIG, num_attention_heads=0), (CONFIG, "num_attention_heads", "0")),
    Fault(
        "heads do not divide",
        setting(CONFIG, num_attention_heads=5, head_dim=ABSENT),
        (CONFIG, "num_attention_heads", "5"),
    ),
    Fault("kv heads do not divide", setting(CONFIG, num_key_value_heads=3), (CONFIG, "num_key_value_heads", "3")),
    Fault("kv heads zero", setting(CONFIG, num_key_value_heads=0), (CONFIG, "num_key_value_heads", "0")),
    Fault("layers negative", setting(CONFIG, num_hidden_layers=-1), (CONFIG, "num_hidden_layers", "-1")),
    Fault("layers too many", setting(CONFIG, num_hidden_layers=3), (WEIGHTS, "model.layers.2", "config.json")),
    Fault("vocab negative", setting(CONFIG, vocab_size=-5), (CONFIG, "vocab_size", "-5")),
    Fault("vocab wrong", setting(CONFIG, vocab_size=400), (WEIGHTS, "400")),
    Fault("activation unknown", setting(CONFIG, hidden_act="sillu"), (CONFIG, "hidden_act", "sillu")),
    Fault("activation a number", setting(CONFIG, hidden_act=3), (CONFIG, "hidden_act", "3")),
    Fault("eps a text", setting(CONFIG, rms_norm_eps="1e-5"), (CONFIG, "rms_norm_eps")),
    Fault("eps NaN", setting(CONFIG, rms_norm_eps=float("nan")), (CONFIG, "rms_norm_eps")),
    Fault("rope a text", setting(CONFIG, rope_parameters="llama3"), (CONFIG, "rope_parameters")),
    Fault(
        "rope unknown",
        setting(CONFIG, rope_parameters={"rope_type": "spiral", "rope_theta": 1e4}),
        (CONFIG, "rope_parameters", "spiral"),
    ),
    Fault(
        "rope incomplete",
        setting(CONFIG, rope_parameters={"rope_type": "llama3", "rope_theta": 1e4}),
        (CONFIG, "rope_parameters"),
    ),
    Fault(
        "theta a text",
        setting(CONFIG, rope_parameters={"rope_type": "default", "rope_theta": "big"}),
        (CONFIG, "rope_parameters"),
    ),
    Fault("dtype unknown", setting(CONFIG, dtype="float7"), (CONFIG, "dtype", "float7")),
    Fault("layer types too few", setting(CONFIG, layer_types=["full_attention"]), (CONFIG, "layer_types")),
    Fault("pad beyond the vocabulary", setting(CONFIG, pad_token_id=5000), (CONFIG, "pad_token_id", "5000")),
    Fault("eos a text", setting(CONFIG, eos_token_id="</s>"), (CONFIG, "eos_token_id", "</s>")),
    Fault("architectures a number", setting(CONFIG, architectures=5), (CONFIG, "architectures")),
    Fault(
        "quantised",
        setting(CONFIG, quantization_config={"quant_method": "gptq", "bits": 4}),
        (CONFIG, "quantization_config"),
    ),
    Fault(
        "not causal",
        setting(CONFIG, model_type="t5", architectures=["T5ForConditionalGeneration"]),
        (CONFIG, "model_type", "T5"),
    ),
    # -- generation_config.json
    Fault("generation cut off", text(GENERATION, '{"eos_token_id": '), (GENERATION, "JSON")),
    Fault("generation empty", text(GENERATION, ""), (GENERATION, "empty")),
    Fault("generation a list", text(GENERATION, "[1]"), (GENERATION, "object")),
    Fault(
        "generation eos a text", setting(GENERATION, eos_token_id="<|eot|>"), (GENERATION, "eos_token_id", "<|eot|>")
    ),
    Fault("generation eos texts", setting(GENERATION, eos_token_id=[1, "2"]), (GENERATION, "eos_token_id", "'2'")),
    # -- tokenizer
    Fault("tokenizer empty", text(TOKENIZER, ""), (TOKENIZER, "empty")),
    Fault("tokenizer cut off", cut(TOKENIZER, 500), (TOKENIZER, "JSON")),
    Fault("tokenizer a pointer", text(TOKENIZER, POINTER), (TOKENIZER, "git-lfs")),
    Fault("tokenizer of nothing", text(TOKENIZER, "{}"), (TOKENIZER,)),
    Fault("tokenizer model unknown", setting(TOKENIZER, model={"type": "XYZ"}), (TOKENIZER, "model")),
    Fault("tokenizer normalizer unknown", setting(TOKENIZER, normalizer={"type": "Nope"}), (TOKENIZER, "normalizer")),
    Fault("tokenizer unreadable", locked(TOKENIZER), (TOKENIZER,)),
    Fault("tokenizer_config cut off", cut(TOKENIZER_CONFIG, 20), (TOKENIZER_CONFIG, "JSON")),
    Fault("tokenizer_config a list", text(TOKENIZER_CONFIG, "[]"), (TOKENIZER_CONFIG, "object")),
    Fault("template a number", setting(TOKENIZER_CONFIG, chat_template=5), (TOKENIZER_CONFIG, "chat_template", "5")),
    Fault(
        "named template without text",
        setting(TOKENIZER_CONFIG, chat_template=[{"name": "default"}]),
        (TOKENIZER_CONFIG, "chat_template"),
    ),
    Fault("template no text", raw("chat_template.jinja", b"\xff\xff"), ("chat_template.jinja", "UTF-8")),
    Fault("special tokens cut off", text(SPECIAL, '{"bos'), (SPECIAL, "JSON")),
    Fault("special tokens a list", text(SPECIAL, "[]"), (SPECIAL, "object")),
    # -- weights
    Fault("weights gone", gone(WEIGHTS), ("safetensors",)),
    Fault("weights pickled only", only_bin, ("pytorch_model.bin", "safetensors")),
    Fault("weights empty", raw(WEIGHTS, b""), (WEIGHTS, "empty")),
    Fault("weights a pointer", text(WEIGHTS, POINTER), (WEIGHTS, "git-lfs")),
    Fault("weights cut in the header", cut(WEIGHTS, 200), (WEIGHTS,)),
    Fault("weights cut in the data", cut(WEIGHTS, 20_000), (WEIGHTS, "20000 bytes")),
    Fault("weights of junk", raw(WEIGHTS, b"\x80\x02}q\x00." * 100), (WEIGHTS,)),
    Fault("weights unreadable", locked(WEIGHTS), (WEIGHTS,)),
    Fault("a tensor gone", tensors(lambda weights: weights.__delitem__(UP)), (WEIGHTS, UP)),
    Fault("a tensor misshapen", put(UP, lambda t: t[:, :5]), (WEIGHTS, UP, "(96, 5)", "(96, 64)")),
    Fault("a tensor of whole numbers", put(UP, lambda t: t.to(torch.int32)), (WEIGHTS, UP, "I32")),
    Fault("NaN", put(UP, _nan), (WEIGHTS, UP, "NaN")),
    Fault("infinity", put("lm_head.weight", _infinite), (WEIGHTS, "lm_head.weight", "infinite")),
    Fault("index cut off", both(shards(), cut(INDEX, 50)), (INDEX, "JSON")),
    Fault("index without a map", shards(weight_map=ABSENT), (INDEX, "weight_map")),
    Fault("index map a list", shards(weight_map=["a"]), (INDEX, "weight_map")),
    Fault("index names a number", shards(weight_map={"lm_head.weight": 5}), (INDEX, "weight_map", "5")),
    Fault("index leads out", shards(weight_map={"lm_head.weight": "../x.safetensors"}), (INDEX, "weight_map", "../x")),
    Fault("a shard gone", both(shards(), gone(SECOND)), (SECOND, INDEX)),
    Fault("a shard cut off", both(shards(), cut(SECOND, 5000)), (SECOND,)),
    Fault("a shard a pointer", both(shards(), text(SECOND, POINTER)), (SECOND, "git-lfs")),
]


def spoiled(fault: Fault, sound: Path, folder: Path) -> Path:
    """Copy a sound folder and spoil the copy; return it."""
    shutil.copytree(sound, folder)
    fault.spoil(folder)
    return folder
