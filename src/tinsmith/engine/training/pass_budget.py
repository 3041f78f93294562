"""How many tokens are computed at once: what the settings grant, and no more than fits into memory.

How a batch is cut into passes decides in which order its gradients are added, and a run that is repeated, or replayed
after a loss, has to find the same bits. So the budget does not follow what is free from pass to pass. It is decided
once, when the engine starts and nothing but the weights is in memory, and by halves, so that a little more or less
gives the same. Only where a pass does not fit at the moment, because others have taken the memory since, it is cut
further: then the last bits may differ, which is better than a process that the kernel kills.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist

from tinsmith.engine.free_memory import free_memory, swap_left
from tinsmith.engine.model.base_model import BaseModel
from tinsmith.engine.out_of_memory import size
from tinsmith.engine.training.packing import Unit, tokens_of
from tinsmith.engine.training.pass_memory import Load, PassMemory
from tinsmith.engine.training.training_pass import lanes_of

log = logging.getLogger(__name__)

# Of what is free when an engine starts. The rest is for what comes later: adapters, on CUDA the KV cache, which takes
# 60 % of what is free when sampling begins (`sampling.cache.kv_cache`), and on a host whatever else runs there.
_SHARE = 0.4
# Below it a pass is hardly smaller than one row.
_LEAST = 16
# What the share is reckoned for: one adapter of a usual rank. A larger rank is a few per cent of a large model.
_USUAL_RANK = 32


@dataclass(frozen=True, slots=True)
class Grant:
    """What a pass may take.

    Attributes:
        tokens: that are computed at once.
        figures: what that needs and what is free, in words, for whoever hears that it was too much.
    """

    tokens: int
    figures: str


class PassBudget:
    """The token budget of an engine's passes.

    Args:
        base: the base model.
        memory: what its passes take.
        most: tokens that the settings grant.

    Attributes:
        memory: what its passes take.
        tokens: of one pass.
        cuts: passes that were cut further because they did not fit at the moment.
    """

    def __init__(self, base: BaseModel, memory: PassMemory, most: int) -> None:
        self._base = base
        self.memory = memory
        self.cuts = 0
        self.tokens = self._decide(most)

    def _decide(self, most: int) -> int:
        free, tokens = free_memory(self._base.device), most
        while tokens > _LEAST and self._usual(tokens) > free * _SHARE:
            tokens = max(_LEAST, tokens // 2)
        if self._base.group is not None:
            # The ranks compute one pass together, and have to cut it alike.
            fewest = torch.tensor(tokens, device=self._base.device)
            dist.all_reduce(fewest, dist.ReduceOp.MIN, self._base.group)
            tokens = int(fewest)
        if tokens < most:
            log.warning(
                f"base model {self._base.info.name}: a training pass has {tokens} tokens and not the {most} of "
                f"TINSMITH_MAX_TOKENS_PER_PASS, which would take about {size(self._usual(most))} of "
                f"{self._base.device}: {size(free)} are free, of which {_SHARE:.0%} are for a pass. Set it to {tokens} "
                "for results of the same bits however much is free at the next start"
            )
        return tokens

    def _usual(self, tokens: int) -> int:
        # In rows so short that every lane gets some.
        lanes = lanes_of(self._base, [1] * tokens, tokens)
        return self.memory.needed(Load(tokens, lanes, _USUAL_RANK, self.memory.parameters(_USUAL_RANK)))

    def figures(self) -> dict[str, float]:
        """Return what metrics show of it: tokens of a pass, and passes that were cut further."""
        return {"pass_tokens": self.tokens, "pass_cuts": self.cuts}

    def grant(self, units: Sequence[Unit], backward: bool) -> Grant:
        """Return how many tokens of a pass may be computed at once at the moment.

        Args:
            units: of the pass.
            backward: whether it trains.

        Raises:
            MemoryError: the longest unit does not fit alone, and to try would be to be killed. An accelerator raises an
                error of its own, so that everything is tried there.
        """
        sizes = [tokens_of(unit) for unit in units]
        budget, least = self.tokens, max(_LEAST, *sizes)
        load = self._load(units, sizes, budget, backward)
        free = free_memory(self._base.device, self.memory.needed(load))
        # What one rank finds free the others do not know.
        while self._base.group is None and budget > least and self.memory.needed(load) > free:
            budget = max(least, budget // 2)
            load = self._load(units, sizes, budget, backward)
        if budget < min(self.tokens, sum(sizes)):
            self.cuts += 1
            log.warning(f"a training pass of {sum(sizes)} tokens is cut to {budget} at once: {size(free)} are free")
        figures = (
            f"{load.tokens} tokens at once need about {size(self.memory.needed(load))}, {size(free)} are free on "
            f"{self._base.device}"
        )
        tensors = self.memory.tensors(load)
        if self._base.device.type == "cpu" and tensors > free and tensors > free + swap_left():
            raise MemoryError(figures)
        return Grant(budget, figures)

    def _load(self, units: Sequence[Unit], sizes: Sequence[int], budget: int, backward: bool) -> Load:
        pools = {unit[0].slot: unit[0].slot.pool.layout for unit in units}
        at_once = max(min(sum(sizes), budget), *sizes)
        return Load(
            at_once,
            lanes_of(self._base, sizes, budget),
            max(layout.bucket for layout in pools.values()),
            sum(layout.size for layout in pools.values()),
            backward,
        )
