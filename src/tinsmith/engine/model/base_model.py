"""A base model in memory: one copy of frozen weights, and a pass of its decoder over a packed stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import PreTrainedConfig

from tinsmith.engine.adapters.layouts import Target
from tinsmith.engine.model.context import ContextCell, ForwardContext, Mode
from tinsmith.engine.model.lean.lean_decoder import LeanDecoder
from tinsmith.engine.model.lora import LoraLinear
from tinsmith.engine.model.native.decoding.native_decoder import NativeDecoder
from tinsmith.engine.model.tiles.products import Products, TiledLinears
from tinsmith.types.facts.base_model_info import BaseModelInfo


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
        lean: the decoder as the sampler runs it; None where it runs the modules.
        native: the decoder as decoding steps and short prompts run; None where they run as all else of the sampler.
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
    lean: LeanDecoder | None = None
    native: NativeDecoder | None = None

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

    @property
    def products(self) -> Products:
        """How rows are multiplied with weights."""
        return self.cell.products

    def hidden(self, input_ids: Tensor, context: ForwardContext) -> Tensor:
        """Run the decoder over one stream. The context must be current: `with model.cell.use(context)`.

        Args:
            input_ids: int64 [T].
            context: of this pass.

        Returns:
            last hidden states after the final norm, [T, H], compute dtype.
        """
        if self.native is not None and self.native.takes(context):
            return self.native.hidden(input_ids, context)
        if self.lean is not None and context.mode is not Mode.PACKED:
            return self.lean.hidden(input_ids, context)
        if self.products.tile == 1:
            return self._decode(input_ids, context)
        tokens = input_ids.shape[0]
        filled = torch.cat([input_ids, input_ids.new_zeros(context.fill_up())])
        with TiledLinears():
            return self._decode(filled, context)[:tokens]

    def _decode(self, input_ids: Tensor, context: ForwardContext) -> Tensor:
        out: Any = self.decoder(
            input_ids=input_ids[None],
            position_ids=context.positions[None],
            use_cache=False,
            forward_context=context,
        )
        return out.last_hidden_state[0]
