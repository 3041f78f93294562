"""Loading a base model from `transformers` and running it over packed streams."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig
from transformers.distributed.configuration_utils import DistributedConfig
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils.hub import cached_file
from transformers.utils.logging import disable_progress_bar

from tinsmith.engine.adapters.slots import Target
from tinsmith.engine.model import attention
from tinsmith.engine.model.architecture import check_config, check_probe, find_targets, is_experts, unsupported
from tinsmith.engine.model.attention import packed_attention
from tinsmith.engine.model.context import ContextCell, ForwardContext, Mode, Segments
from tinsmith.engine.model.experts import LoraExperts
from tinsmith.engine.model.lora import LoraLinear
from tinsmith.engine.model.shards import gather_weight
from tinsmith.types.base_model_info import BaseModelInfo
from tinsmith.types.errors import UserError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


@dataclass(slots=True)
class BaseModel:
    """One copy of frozen weights.

    Attributes:
        info: what clients are told.
        config: of `transformers`.
        decoder: embeddings and layers, without the output projection.
        head: the output projection; its adapter is applied by `logprobs`.
        targets: weights that adapters act on.
        cell: where the swapped modules find the running pass.
        device: where the weights are.
        dtype: compute dtype.
        tokenizer: None where the folder has no tokenizer.json.
        group: the ranks that the weights are split over; None where this process holds all of them.
    """

    info: BaseModelInfo
    config: PreTrainedConfig
    decoder: nn.Module
    head: LoraLinear
    targets: tuple[Target, ...]
    cell: ContextCell
    device: torch.device
    dtype: torch.dtype
    tokenizer: Tokenizer | None
    group: dist.ProcessGroup | None = None

    @property
    def wide_dtype(self) -> torch.dtype:
        """Dtype of masters, gradients, logits, logprobs and losses: max(float32, compute dtype)."""
        return torch.promote_types(torch.float32, self.dtype)

    @property
    def kv_heads(self) -> int:
        """Key heads of each layer."""
        return int(getattr(self.config, "num_key_value_heads", None) or self.config.num_attention_heads)

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return int(getattr(self.config, "head_dim", None) or self.config.hidden_size // self.config.num_attention_heads)

    def hidden(self, input_ids: Tensor, context: ForwardContext) -> Tensor:
        """Run the decoder over one stream. The context must be current: `with model.cell.use(context)`.

        Args:
            input_ids: int64 [T].
            context: of this pass.

        Returns:
            last hidden states after the final norm, [T, H], compute dtype.
        """
        out: Any = self.decoder(
            input_ids=input_ids[None],
            position_ids=context.positions[None],
            use_cache=False,
            forward_context=context,
        )
        return out.last_hidden_state[0]


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
    model.requires_grad_(False).eval()
    targets = find_targets(name, model, config)
    parameters = sum(p.numel() for p in model.parameters())
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    plain = [_plain_logits(model, ids) for ids in _probe_ids(model, device)]
    gather_weight(model.get_output_embeddings())
    base = BaseModel(
        info=_info(name, model, config, parameters, tied),
        config=config,
        decoder=model.get_decoder(),
        head=LoraLinear(model.get_output_embeddings(), _head_name(model), cell := ContextCell()),
        targets=targets,
        cell=cell,
        device=device,
        dtype=dtype,
        tokenizer=_read_tokenizer(source),
        group=None if parallel is None else dist.group.WORLD,
    )
    _swap_modules(model, base)
    model.config._attn_implementation = attention.NAME
    _probe(name, base, plain, _probe_ids(model, device))
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
            attn_implementation="eager",
            experts_implementation="eager",
            use_safetensors=True,
            output_loading_info=True,
            distributed_config=parallel,
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise UserError(f"base model {name}: got {source}, whose weights cannot be loaded: {error}") from error
    model, report = loaded
    # transformers would go on with random numbers in their place.
    absent = sorted(str(key) for key in (*report["missing_keys"], *report["mismatched_keys"]))
    if absent:
        shown = ", ".join(absent[:3]) + (", ..." if len(absent) > 3 else "")
        raise UserError(
            f"base model {name}: got {source}, whose weights cannot be loaded: {shown} missing or misshapen"
        )
    return model


def _read_tokenizer(source: str) -> Tokenizer | None:
    path = cached_file(source, "tokenizer.json", _raise_exceptions_for_missing_entries=False)
    return Tokenizer.from_file(path) if path else None


def _head_name(model: Any) -> str:
    head = model.get_output_embeddings()
    return next(path for path, module in model.named_modules() if module is head)


def _info(name: str, model: Any, config: PreTrainedConfig, parameters: int, tied: bool) -> BaseModelInfo:
    eos = model.generation_config.eos_token_id if model.generation_config is not None else None
    eos = config.eos_token_id if eos is None else eos
    return BaseModelInfo(
        name=name,
        architecture=type(model).__name__,
        model_type=config.model_type,
        vocab_size=model.get_output_embeddings().weight.shape[0],
        hidden_size=config.hidden_size,
        num_layers=config.num_hidden_layers,
        context_length=config.max_position_embeddings,
        is_moe=any(is_experts(m) for m in model.modules()),
        experts_per_token=int(getattr(config, "num_experts_per_tok", None) or 1),
        tied_embeddings=tied,
        eos_token_ids=[] if eos is None else [eos] if isinstance(eos, int) else list(eos),
        parameters=parameters,
    )


def _swap_modules(model: nn.Module, base: BaseModel) -> None:
    """Put LoRA layers in the place of the decoder's linear layers and experts."""
    names = {t.name for t in base.targets}
    for path, module in list(model.named_modules()):
        if module is model.get_output_embeddings():  # pyright: ignore[reportCallIssue]
            continue
        if isinstance(module, nn.Linear) and path in names:
            model.set_submodule(path, LoraLinear(module, path, base.cell))
        elif is_experts(module):
            if base.group is not None:
                raise unsupported(base.info.name, f"architecture {base.info.architecture} split over ranks")
            model.set_submodule(path, LoraExperts(module, path, base.cell))


def _probe_ids(model: Any, device: torch.device) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    vocab = model.get_input_embeddings().weight.shape[0]
    return [torch.randint(vocab, (n,), generator=generator).to(device) for n in (7, 5)]


@torch.no_grad()
def _plain_logits(model: Any, ids: Tensor) -> Tensor:
    return model(input_ids=ids[None], use_cache=False).logits[0]


class _RecordLayers:
    """A paged attention without pages that notes which layers called it."""

    def __init__(self) -> None:
        self.layers: set[int] = set()

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float, context: ForwardContext
    ) -> Tensor:
        self.layers.add(layer)
        return packed_attention(query, key, value, attention.layout_of(context), scaling)


@torch.no_grad()
def _probe(name: str, base: BaseModel, plain: list[Tensor], ids: list[Tensor]) -> None:
    record = _RecordLayers()
    lengths = tuple(len(i) for i in ids)
    positions = torch.cat([torch.arange(n) for n in lengths]).to(base.device)
    context = ForwardContext(Mode.PACKED, positions, lengths, Segments(), paged=record)
    try:
        with base.cell.use(context):
            packed = base.head(base.hidden(torch.cat(ids), context)).split(lengths)
    except NotImplementedError as error:
        raise unsupported(name, f"architecture {base.info.architecture} ({error})") from error
    if len(record.layers) != base.info.num_layers:
        record.layers.clear()
    check_probe(name, base.info.architecture, plain, list(packed), record.layers)
