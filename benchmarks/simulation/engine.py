"""An engine that computes nothing and takes the time that a real one would."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from benchmarks.simulation.costs import Costs
from benchmarks.simulation.ledger import Ledger
from benchmarks.simulation.sampler import END, SimulatedSampler
from tinsmith.engine.jobs import RowOutput, TrainRow
from tinsmith.settings import Settings
from tinsmith.types.datum import Datum
from tinsmith.types.facts.base_model_info import BaseModelInfo
from tinsmith.types.params import AdamParams, LoraConfig

MODEL = "simulated"


class SimulatedEngine:
    """A `HostedEngine`; adapters and samplers are names, and there is room for all of them.

    Args:
        settings: sizes, as the engine's.
        cache_tokens: tokens that the KV cache holds.
        costs: what each call takes.
        ledger: told of what is computed, and for whom.
    """

    def __init__(self, settings: Settings, cache_tokens: int, costs: Costs, ledger: Ledger) -> None:
        self.info = BaseModelInfo(
            name=MODEL,
            architecture="SimulatedForCausalLM",
            model_type="simulated",
            vocab_size=32_000,
            hidden_size=1,
            num_layers=1,
            context_length=8192,
            eos_token_ids=[END],
        )
        self.max_tokens_per_pass = settings.max_tokens_per_pass
        self.sampler = SimulatedSampler(self.info, settings, cache_tokens, costs, ledger)
        self._costs = costs
        self._ledger = ledger
        self._simulating_s = 0.0

    @property
    def simulating_s(self) -> float:
        """Seconds of this machine that went into pretending, not into decisions of the scheduler."""
        return self._simulating_s + self.sampler.simulating_s

    # -- training -----------------------------------------------------------------------------------------------------

    def row_cost(self, datum: Datum) -> int:
        """As the engine."""
        return datum.model_input.length

    def train_rows(self, rows: Sequence[TrainRow]) -> list[RowOutput | Exception]:
        """As the engine: one pass."""
        began = time.process_time()
        tokens: dict[str, int] = {}
        for row in rows:
            tokens[row.model_id] = tokens.get(row.model_id, 0) + self.row_cost(row.datum)
            self._ledger.trained_row(row.model_id)
        total = sum(tokens.values())
        seconds = self._costs.train(total, len(tokens))
        owners: dict[str, float] = {}
        for model_id, count in tokens.items():
            owner = self._ledger.owner_of[model_id]
            owners[owner] = owners.get(owner, 0.0) + seconds * count / total
        self._ledger.passed(total)
        self._ledger.served(owners, seconds)
        outputs: list[RowOutput | Exception] = [RowOutput(_zeros(row.datum.model_input.length), 0.0) for row in rows]
        self._simulating_s += time.process_time() - began
        return outputs

    def keep_reference(self, model_id: str, reference: str) -> None:
        """Nothing: there are no references."""

    def optim_step(self, model_id: str, adam: AdamParams) -> dict[str, float]:
        """As the engine."""
        self._small(model_id, self._costs.update_s)
        return {}

    def clear_gradients(self, model_id: str) -> None:
        """Nothing: there are no gradients."""

    # -- models and samplers ------------------------------------------------------------------------------------------

    def create_model(self, model_id: str, lora: LoraConfig) -> None:
        """As the engine."""
        self._small(model_id, self._costs.small_s)

    def remove_model(self, model_id: str) -> None:
        """As the engine."""
        self._small(model_id, self._costs.small_s)

    def load_state(self, model_id: str, folder: str, lora: LoraConfig, optimizer: bool = True) -> None:
        """As the engine."""
        self._small(model_id, self._costs.write_s)

    def save_state(self, model_id: str, folder: str) -> int:
        """As the engine."""
        self._small(model_id, self._costs.write_s)
        return 0

    save_sampler = save_state

    def snapshot(self, model_id: str, sampler_id: str) -> None:
        """As the engine."""
        self._small(model_id, self._costs.small_s)
        self.sampler.make(sampler_id)

    def write_snapshot(self, sampler_id: str, folder: str) -> int:
        """Nothing: the disk of the world takes the time."""
        return 0

    def figures(self) -> dict[str, float]:
        """None: nothing here takes memory."""
        return {}

    def load_sampler(self, sampler_id: str, folder: str | None) -> None:
        """As the engine; of the base model or of a folder's weights, which are nobody else's."""
        self._small(sampler_id, self._costs.small_s)
        self.sampler.make(sampler_id, 0 if folder is None else None)

    def release_sampler(self, sampler_id: str) -> None:
        """As the engine."""
        self._small(sampler_id, self._costs.small_s)
        self.sampler.release(sampler_id)

    def _small(self, name: str, seconds: float) -> None:
        self._ledger.served({self._ledger.owner_of[name]: seconds}, seconds)


@lru_cache(maxsize=4096)
def _zeros(length: int) -> np.ndarray:
    return np.zeros(length, np.float32)
