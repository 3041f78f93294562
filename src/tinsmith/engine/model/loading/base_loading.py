"""Loading a base model from `transformers` and making its linear layers carry adapters."""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tokenizers import Tokenizer
from torch import nn
from transformers import AutoConfig, PreTrainedConfig
from transformers.distributed.configuration_utils import DistributedConfig
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from tinsmith.engine.model import attention
from tinsmith.engine.model.base_model import BaseModel
from tinsmith.engine.model.context import ContextCell
from tinsmith.engine.model.experts import LoraExperts
from tinsmith.engine.model.lean.lean_decoder import lean_decoder
from tinsmith.engine.model.loading.architecture import check_config, find_targets, is_experts, unsupported
from tinsmith.engine.model.loading.base_weights import BaseWeights
from tinsmith.engine.model.loading.loading_faults import named_faults
from tinsmith.engine.model.loading.probe import (
    check_numbers,
    check_packed,
    check_tiles,
    kept_if_it_agrees,
    lean_agrees,
    native_agrees,
    plain_logits,
)
from tinsmith.engine.model.lora import LoraLinear
from tinsmith.engine.model.native.decoding.native_decoder import native_decoder
from tinsmith.engine.model.native.training.fused_layer import fuse_layers
from tinsmith.engine.model.norms import fuse_norms
from tinsmith.engine.model.shards import gather_weight
from tinsmith.engine.model.tiles.products import WHOLE, Products, TiledLinears
from tinsmith.model_files.folder import CONFIG, TOKENIZER, check_companions, read_config
from tinsmith.model_files.tokenizer_json import load_tokenizer
from tinsmith.types.errors import UserError, invalid
from tinsmith.types.facts.base_model_info import BaseModelInfo


def load_base_model(
    name: str,
    source: str,
    device: torch.device,
    dtype: torch.dtype,
    parallel: DistributedConfig | None = None,
    products: Products = WHOLE,
    native: bool = True,
) -> BaseModel:
    """Load a base model and make its linear layers carry adapters.

    Args:
        name: that clients use.
        source: its folder.
        device: where to put it.
        dtype: compute dtype.
        parallel: how to split the weights over the ranks of the running process group, as `transformers` plans it.
        products: how rows are multiplied with weights.
        native: whether what is written in C for a CPU may run.

    Raises:
        UserError: there is no model at `source`, one of its files is at fault (the message names file and field), or
            its architecture is not supported.
    """
    folder = _folder(name, source)
    with named_faults(f"base model {name}", folder):
        return _load(name, folder, device, dtype, parallel, ContextCell(products, native=native))


def _load(
    name: str,
    folder: Path,
    device: torch.device,
    dtype: torch.dtype,
    parallel: DistributedConfig | None,
    cell: ContextCell,
) -> BaseModel:
    # The small files first: whoever has a broken one should not wait for the weights to hear of it.
    fields = read_config(place := f"base model {name}", folder)
    check_companions(place, folder)
    config = _make_config(name, folder, fields)
    tokenizer = _read_tokenizer(name, folder)
    weights = BaseWeights(place, folder)
    model = weights.load(config, dtype, parallel).to(device)
    # The base never trains: no gradients, no dropout.
    model.requires_grad_(False).eval()
    targets = find_targets(name, model, config)
    weights.warn_of_merging(targets)
    parameters = sum(p.numel() for p in model.parameters())
    of_adapters = Counter[str]()
    for target in targets:
        of_adapters[target.kind] += target.parameters
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    # Everything that wants the model as `transformers` made it comes before the modules are swapped.
    plain = plain_logits(model, device)
    check_numbers(f"{place}: {folder / CONFIG}", fields, plain)
    gather_weight(model.get_output_embeddings())
    lean = lean_decoder(model) if cell.products.tile == 1 else None
    base = BaseModel(
        info=_info(name, model, config, parameters, tied, tokenizer is not None).model_copy(
            update={"lora_parameters": dict(of_adapters)}
        ),
        config=config,
        decoder=model.get_decoder(),
        head=LoraLinear(model.get_output_embeddings(), _head_name(model), cell),
        targets=targets,
        cell=cell,
        device=device,
        dtype=dtype,
        tokenizer=tokenizer,
        group=None if parallel is None else dist.group.WORLD,
    )
    _swap_modules(model, base)
    # Tiles keep the bits that they were checked with; split layers keep their distributed weights.
    if cell.products.tile == 1 and parallel is None:
        fuse_norms(model)
    model.config._attn_implementation = attention.NAME
    check_packed(base, plain)
    if lean is not None and lean_agrees(base, lean):
        base.lean = lean
        if cell.native:
            with kept_if_it_agrees(base):
                fuse_layers(base.decoder, lean)
            step = native_decoder(lean, model.get_output_embeddings(), base.head.name)
            if step is not None and native_agrees(base, step):
                base.native = step
    if cell.products.tile > 1:
        check_tiles(base)
    return base


def checkpoint_activations(base: BaseModel) -> None:
    """Keep only each layer's input in the forward pass and recompute the rest in the backward pass."""
    options: dict[str, Any] = {"use_reentrant": False}
    if base.products.tile > 1:
        # What is recomputed runs outside of `BaseModel.hidden`.
        options["context_fn"] = lambda: (nullcontext(), TiledLinears())
    base.decoder.gradient_checkpointing_enable(options)  # pyright: ignore[reportCallIssue]
    for module in base.decoder.modules():
        if isinstance(module, GradientCheckpointingLayer):
            # transformers recomputes in training mode only; the layer's parts stay in evaluation mode.
            module.training = True


def _make_config(name: str, folder: Path, fields: dict[str, Any]) -> PreTrainedConfig:
    kind = fields["model_type"]
    if kind not in CONFIG_MAPPING:
        raise invalid(
            f"base model {name}: {folder / CONFIG}: model_type", kind, "an architecture that `transformers` knows"
        )
    # Code that comes with a checkpoint is never run.
    config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
    check_config(name, config)
    return config


def _folder(name: str, source: str) -> Path:
    folder = Path(source).expanduser()
    if not folder.is_dir():
        raise UserError(f"base model {name}: got {source}, expected a folder with {CONFIG} and safetensors")
    return folder


def _read_tokenizer(name: str, folder: Path) -> Tokenizer | None:
    path = folder / TOKENIZER
    return load_tokenizer(f"base model {name}", path) if path.exists() else None


def _head_name(model: Any) -> str:
    head = model.get_output_embeddings()
    return next(path for path, module in model.named_modules() if module is head)


def _info(
    name: str, model: Any, config: PreTrainedConfig, parameters: int, tied: bool, has_tokenizer: bool
) -> BaseModelInfo:
    # generation_config.json knows more than config.json: chat models end a turn with a token of their own.
    eos = model.generation_config.eos_token_id if model.generation_config is not None else None
    eos = config.eos_token_id if eos is None else eos
    return BaseModelInfo(
        name=name,
        architecture=type(model).__name__,
        model_type=config.model_type,
        # Of the weights, not of the tokenizer, which is often smaller: an id that can be drawn has to be accepted.
        vocab_size=model.get_output_embeddings().weight.shape[0],
        hidden_size=config.hidden_size,
        num_layers=config.num_hidden_layers,
        context_length=config.max_position_embeddings,
        is_moe=any(is_experts(m) for m in model.modules()),
        experts_per_token=int(getattr(config, "num_experts_per_tok", None) or 1),
        tied_embeddings=tied,
        eos_token_ids=[] if eos is None else [eos] if isinstance(eos, int) else list(eos),
        parameters=parameters,
        has_tokenizer=has_tokenizer,
        device=str(model.device),
        dtype=str(model.dtype).removeprefix("torch."),
    )


def _swap_modules(model: nn.Module, base: BaseModel) -> None:
    """Put LoRA layers in the place of the decoder's linear layers and experts."""
    names = {t.name for t in base.targets}
    for path, module in list(model.named_modules()):
        # `logprobs` projects chunk by chunk with the head that `BaseModel` holds; the model's own is never called.
        if module is model.get_output_embeddings():  # pyright: ignore[reportCallIssue]
            continue
        if isinstance(module, nn.Linear) and path in names:
            model.set_submodule(path, LoraLinear(module, path, base.cell))
        elif is_experts(module):
            if base.group is not None:
                raise unsupported(base.info.name, f"architecture {base.info.architecture} split over ranks")
            model.set_submodule(path, LoraExperts(module, path, base.cell))
