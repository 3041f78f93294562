"""The shape of tinsmith-tiny and the folder that plain transformers loads."""

import json
from pathlib import Path

import torch
from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

from tiny import tokenizer as tok


def model_config() -> Qwen3Config:
    """Qwen3 with 1.53 million parameters; input and output embeddings are tied."""
    return Qwen3Config(
        architectures=["Qwen3ForCausalLM"],
        vocab_size=tok.VOCAB_SIZE,
        hidden_size=160,
        intermediate_size=448,
        num_hidden_layers=5,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=tok.CONTEXT,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tok.ID[tok.END],
        pad_token_id=tok.ID[tok.END_OF_TEXT],
    )


def new_model(seed: int) -> Qwen3ForCausalLM:
    """A freshly initialised model in fp32."""
    torch.manual_seed(seed)
    return Qwen3ForCausalLM(model_config()).float()


def export(weights: dict[str, torch.Tensor], folder: Path, training: dict[str, object]) -> None:
    """Write config, bf16 safetensors, tokenizer, generation config and how it was trained to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    model = Qwen3ForCausalLM(model_config())
    model.load_state_dict(weights)
    model = model.to(torch.bfloat16)
    model.generation_config = GenerationConfig(
        eos_token_id=[tok.ID[tok.END], tok.ID[tok.END_OF_TEXT]],
        pad_token_id=tok.ID[tok.END_OF_TEXT],
        do_sample=True,
        temperature=1.0,
    )
    model.save_pretrained(folder)
    # safetensors leaves it readable by its owner only, and so it would go into the wheel.
    (folder / "model.safetensors").chmod(0o644)
    tok.save_tokenizer(folder)
    (folder / "training.json").write_text(json.dumps(training, indent=2) + "\n")
