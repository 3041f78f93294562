"""Loading a base model from `transformers` and making its linear layers carry adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from tokenizers import Tokenizer
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig
from transformers.distributed.configuration_utils import DistributedConfig
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils.hub import cached_file
from transformers.utils.logging import disable_progress_bar

from tinsmith.engine.model import attention
from tinsmith.engine.model.architecture import check_config, find_targets, is_experts, unsupported
from tinsmith.engine.model.base_model import BaseModel
from tinsmith.engine.model.context import ContextCell
from tinsmith.engine.model.experts import LoraExperts
from tinsmith.engine.model.lora import LoraLinear
from tinsmith.engine.model.probe import check_packed, plain_logits
from tinsmith.engine.model.shards import gather_weight
from tinsmith.types.errors import UserError
from tinsmith.types.facts.base_model_info import BaseModelInfo


def load_base_model(
    name: str, source: str, device: torch.device, dtype: torch.dtype, parallel: DistributedConfig | None = None
) -> BaseModel:
    """Load a base model and make its linear layers carry adapters.

    Args:
        name: that clients use.
        source: a folder or a hub id.
        device: where to put it.
        dtype: compute dtype.
        parallel: how to split the weights over the ranks of the running process group, as `transformers` plans it.

    Raises:
        UserError: there is no model at `source`, or its architecture is not supported.
    """
    config = _read_config(name, source)
    check_config(name, config)
    model = _load_weights(name, source, config, dtype, parallel).to(device)
    # The base never trains: no gradients, no dropout.
    model.requires_grad_(False).eval()
    targets = find_targets(name, model, config)
    parameters = sum(p.numel() for p in model.parameters())
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    # Everything that wants the model as `transformers` made it comes before the modules are swapped.
    plain = plain_logits(model, device)
    tokenizer = _read_tokenizer(source)
    gather_weight(model.get_output_embeddings())
    base = BaseModel(
        info=_info(name, model, config, parameters, tied, tokenizer is not None),
        config=config,
        decoder=model.get_decoder(),
        head=LoraLinear(model.get_output_embeddings(), _head_name(model), cell := ContextCell()),
        targets=targets,
        cell=cell,
        device=device,
        dtype=dtype,
        tokenizer=tokenizer,
        group=None if parallel is None else dist.group.WORLD,
    )
    _swap_modules(model, base)
    model.config._attn_implementation = attention.NAME
    check_packed(base, plain)
    return base


def checkpoint_activations(base: BaseModel) -> None:
    """Keep only each layer's input in the forward pass and recompute the rest in the backward pass."""
    base.decoder.gradient_checkpointing_enable({"use_reentrant": False})  # pyright: ignore[reportCallIssue]
    for module in base.decoder.modules():
        if isinstance(module, GradientCheckpointingLayer):
            # transformers recomputes in training mode only; the layer's parts stay in evaluation mode.
            module.training = True


def _read_config(name: str, source: str) -> PreTrainedConfig:
    folder = Path(source).expanduser()
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise UserError(f"base model {name}: got folder {source}, expected a folder with config.json and safetensors")
    if not folder.exists() and (folder.is_absolute() or source.count("/") > 1 or source.startswith(".")):
        raise UserError(f"base model {name}: got {source}, expected an existing folder or a hub id like org/model")
    try:
        # Code that comes with a checkpoint is never run.
        return AutoConfig.from_pretrained(str(folder) if folder.exists() else source, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"base model {name}: got {source}, whose config cannot be read: {error}") from error


def _load_weights(
    name: str, source: str, config: PreTrainedConfig, dtype: torch.dtype, parallel: DistributedConfig | None
) -> Any:
    folder = Path(source).expanduser()
    disable_progress_bar()  # the service logs what it loads; a bar would cut through the output of a user's script
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            str(folder) if folder.exists() else source,
            config=config,
            trust_remote_code=False,
            dtype=dtype,
            # The plainest code that `transformers` has: the probe compares ours with it.
            attn_implementation="eager",
            experts_implementation="eager",
            use_safetensors=True,
            output_loading_info=True,
            distributed_config=parallel,
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise UserError(f"base model {name}: got {source}, whose weights cannot be loaded: {error}") from error
    model, report = loaded
    _check_complete(name, source, report)
    return model


def _check_complete(name: str, source: str, report: dict[str, Any]) -> None:
    # transformers would go on with random numbers in their place.
    absent = sorted(str(key) for key in (*report["missing_keys"], *report["mismatched_keys"]))
    if absent:
        shown = ", ".join(absent[:3]) + (", ..." if len(absent) > 3 else "")
        raise UserError(
            f"base model {name}: got {source}, whose weights cannot be loaded: {shown} missing or misshapen"
        )


def _read_tokenizer(source: str) -> Tokenizer | None:
    path = cached_file(source, "tokenizer.json", _raise_exceptions_for_missing_entries=False)
    return Tokenizer.from_file(path) if path else None


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
