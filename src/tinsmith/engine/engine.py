"""The engine's face: synchronous, one thread, no knowledge of requests, sessions or queues."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from itertools import chain
from pathlib import Path

from tokenizers import Tokenizer

from tinsmith.engine.adapters.memory import SlotMemory
from tinsmith.engine.adapters.optimizer import adamw_step
from tinsmith.engine.adapters.references import BASE, References
from tinsmith.engine.adapters.slots import PassGradients
from tinsmith.engine.adapters.snapshots import Snapshots
from tinsmith.engine.adapters.trained_adapters import Adapters
from tinsmith.engine.checkpoints.adapter_folders import AdapterFolders
from tinsmith.engine.checkpoints.fingerprint import weights_digest
from tinsmith.engine.devices import adapter_budget, host_adapter_budget, resolve_device, resolve_dtype
from tinsmith.engine.jobs import RowOutput, TrainRow
from tinsmith.engine.model.base_model import BaseModel
from tinsmith.engine.model.head.logprobs import chunk_tokens
from tinsmith.engine.model.loading.base_loading import checkpoint_activations, load_base_model
from tinsmith.engine.model.native.training.products.fast_products import fast_products
from tinsmith.engine.model.tiles.products import TILED, WHOLE
from tinsmith.engine.out_of_memory import is_out_of_memory
from tinsmith.engine.sampling.sampler import Sampler
from tinsmith.engine.threads import THREADS, Grain
from tinsmith.engine.training.finite_losses import fail_infinite
from tinsmith.engine.training.packing import PackedRow, Unit, share_prompt, share_prompts
from tinsmith.engine.training.pass_budget import PassBudget
from tinsmith.engine.training.pass_memory import PassMemory
from tinsmith.engine.training.reference_logprobs import ReferenceLogprobs
from tinsmith.engine.training.training_pass import run_units
from tinsmith.settings import Settings
from tinsmith.types.checks.validation import check_adam, check_lora, check_training_data
from tinsmith.types.datum import Datum
from tinsmith.types.errors import invalid
from tinsmith.types.facts.base_model_info import BaseModelInfo
from tinsmith.types.facts.loss_table import LOSSES, unit_of
from tinsmith.types.params import AdamParams, LoraConfig

log = logging.getLogger(__name__)

# A unit of rows that share a prompt has at most that part of a pass.
_UNITS_PER_PASS = 4


class Engine:
    """One base model with its adapters and its sampler.

    Args:
        base: the loaded base model.
        settings: token budgets and memory limits.

    Every method that names a model or sampler raises UserError where there is none of that id.
    """

    def __init__(self, base: BaseModel, settings: Settings) -> None:
        self.base = base
        self.settings = settings
        budget, host_budget = adapter_budget(base.device, settings), host_adapter_budget(base.device, settings)
        self.memory = SlotMemory(base.targets, base.dtype, base.device, budget, host_budget)
        self.adapters = Adapters(self.memory, base.wide_dtype, base.device)
        self.snapshots = Snapshots(self.adapters)
        self.folders = AdapterFolders(base)
        self._sampler: Sampler | None = None
        self.references = References(self.adapters, partial(self.folders.read, optimizer=False))
        self._chunk = chunk_tokens(base.info.vocab_size, settings.logprob_chunk, base.products.tile)
        self.reference_logprobs = ReferenceLogprobs(base, self._chunk, settings.reference_cache_mb * 2**20, self.memory)
        takes = PassMemory.of(base, self._chunk, settings.activation_checkpointing)
        self.pass_budget = PassBudget(base, takes, settings.max_tokens_per_pass)
        if settings.activation_checkpointing:
            checkpoint_activations(base)

    @classmethod
    def load(cls, name: str, source: str, device: str, dtype: str, settings: Settings) -> Engine:
        """Load a base model.

        Args:
            name: that clients use.
            source: folder or hub id.
            device: `auto`, `cpu`, `cuda` or `cuda:N`.
            dtype: `auto` (CPU float32, CUDA bfloat16) or a name of `DTYPES`.
            settings: of the process.

        Raises:
            UserError: there is no model at `source`, its architecture is not supported, or device or dtype are not.
        """
        place = resolve_device(device)
        chosen = resolve_dtype(dtype, place)
        products = fast_products(place, chosen) if settings.native_kernels else WHOLE
        if settings.batch_invariant:
            # Several threads would split elementwise work at places that depend on the size of a pass.
            THREADS.settle(0, 1)
            products = TILED
        base = load_base_model(name, source, place, chosen, products=products, native=settings.native_kernels)
        THREADS.settle(base.info.parameters, 1 if settings.batch_invariant else settings.engine_threads)
        base.info = base.info.model_copy(update={"weights_digest": weights_digest(base)})
        return cls(base, settings)

    @property
    def info(self) -> BaseModelInfo:
        """What clients are told about the base model."""
        return self.base.info

    @property
    def tokenizer(self) -> Tokenizer | None:
        """Turns ids into text for stop strings; None where the model came without one."""
        return self.base.tokenizer

    @property
    def max_tokens_per_pass(self) -> int:
        """Token budget of one packed pass, of the settings or what fits; rows beyond it are cut into several."""
        return self.pass_budget.tokens

    def row_cost(self, datum: Datum) -> int:
        """Tokens that a datum takes of the budget."""
        return datum.model_input.length

    @property
    def sampler(self) -> Sampler:
        """Generates from snapshots; made, with its cache, when first asked for."""
        # An engine that only trains never pays for a KV cache.
        if self._sampler is None:
            self._sampler = Sampler(self.base, self.snapshots, self.memory, self.settings)
        return self._sampler

    def figures(self) -> dict[str, float]:
        """Return what metrics show of its memory; of the KV cache, once there is one."""
        sampling = self._sampler.figures() if self._sampler is not None else {}
        return self.memory.figures() | self.pass_budget.figures() | sampling

    def create_model(self, model_id: str, lora: LoraConfig) -> None:
        """Make an adapter whose first forward equals the base.

        Raises:
            UserError: the config is out of range, the id is taken, or the adapter budget is exhausted.
        """
        check_lora(lora, self.settings.max_lora_rank)
        self.adapters.create(model_id, lora)

    def remove_model(self, model_id: str) -> None:
        """Free an adapter, its optimizer state and its reference."""
        self.adapters.remove(model_id)
        self.references.forget(model_id)
        self.adapters.tidy()

    def load_state(self, model_id: str, folder: str | Path, lora: LoraConfig, optimizer: bool = True) -> None:
        """Load a saved state into a model, made if there is none of this id; accumulated gradients are dropped.

        The model measures preferences against the state's reference from then on, which is the base where it has none.

        Args:
            model_id: the training run.
            folder: a state (or, without `optimizer`, any PEFT folder of this base).
            lora: shape that the run has.
            optimizer: whether to take the optimizer's state too; else it starts anew.

        Raises:
            UserError: the folder is no checkpoint, is damaged, or is of another base or shape; nothing was changed.
        """
        # Not its seed, which has done its work: one that was made of a model's id has all 64 bits.
        check_lora(lora.model_copy(update={"seed": None}), self.settings.max_lora_rank)
        saved = self.folders.read(folder, optimizer)
        saved.check_shape(lora)
        fresh = model_id not in self.adapters.model_ids()
        adapter = self.adapters.create(model_id, lora) if fresh else self.adapters.get(model_id)
        if adapter.lora.model_copy(update={"seed": lora.seed}) != lora:
            raise invalid("lora_config", lora, f"the config of model {model_id}: {adapter.lora!r}")
        reference = BASE
        try:
            if saved.reference is not None:
                reference = self.references.load(saved.reference)
            # All checks are behind us. The reference may have taken the adapter's place.
            self.memory.use([adapter.slot])
            saved.restore(adapter)
        except BaseException:  # memory too: a state is taken whole or not at all
            self.references.free(reference)
            if fresh:
                self.adapters.remove(model_id)
            raise
        self.references.replace(model_id, reference)

    def save_state(self, model_id: str, folder: str | Path) -> int:
        """Write weights, optimizer state and reference; return the bytes written."""
        return self.folders.save_state(self.adapters.get(model_id), folder, self.references.kept(model_id))

    def keep_reference(self, model_id: str, reference: str) -> None:
        """Measure a model's preferences against a reference from now on, where a row names none.

        Args:
            model_id: the training run.
            reference: a folder of saved weights, or `base`.

        Raises:
            UserError: the folder is no checkpoint, is damaged or of another base, or the adapter budget is exhausted.
        """
        self.adapters.get(model_id)
        self.references.keep(model_id, reference)

    def save_sampler(self, model_id: str, folder: str | Path) -> int:
        """Write the weights only; return the bytes written."""
        adapter = self.adapters.get(model_id)
        return self.folders.save_weights(adapter.master, adapter.slot, adapter.lora, folder)

    def snapshot(self, model_id: str, sampler_id: str) -> None:
        """Freeze a model's present weights in memory, ready to sample from.

        Raises:
            UserError: the adapter budget is exhausted.
        """
        adapter = self.adapters.get(model_id)
        self.snapshots.add(sampler_id, self.adapters.copy(adapter), adapter.lora)

    def write_snapshot(self, sampler_id: str, folder: str | Path) -> int:
        """Write a snapshot's weights; return the bytes written.

        Raises:
            UserError: the sampler is the base model alone.
        """
        snapshot = self.snapshots.acquire(sampler_id)
        try:
            if snapshot.slot is None or snapshot.lora is None:
                raise invalid("sampler_id", sampler_id, "a sampler with an adapter")
            weights = self.memory.read(snapshot.slot)
            return self.folders.save_weights(weights, snapshot.slot, snapshot.lora, folder)
        finally:
            self.snapshots.done(snapshot)

    def load_sampler(self, sampler_id: str, folder: str | Path | None) -> None:
        """Load weights to sample from; None samples from the base model.

        Raises:
            UserError: the folder is no checkpoint, is damaged or of another base, or the budget is exhausted.
        """
        if folder is None:
            self.snapshots.add(sampler_id, None, None)
            return
        saved = self.folders.read(folder, optimizer=False)
        slot = self.adapters.allocate(saved.lora, saved.fill)
        self.snapshots.add(sampler_id, slot, saved.lora)

    def release_sampler(self, sampler_id: str) -> None:
        """Free a sampler; its running requests end first."""
        self.snapshots.remove(sampler_id)
        self.adapters.tidy()

    def optim_step(self, model_id: str, params: AdamParams) -> dict[str, float]:
        """Apply the accumulated gradients and clear them; return metrics.

        Raises:
            UserError: a parameter is out of range, or gradients are not finite (they are cleared, the weights stay).
        """
        check_adam(params)
        THREADS.follow_load(Grain.OPTIMIZER)
        return adamw_step(self.adapters.ready(model_id), params)

    def clear_gradients(self, model_id: str) -> None:
        """Forget the gradients since the last step."""
        self.adapters.get(model_id).clear_gradients()

    def train_rows(self, rows: Sequence[TrainRow]) -> list[RowOutput | Exception]:
        """Compute rows of any models in one packed pass and add up their gradients.

        A row that is bad fails alone, or with the other one of its pair; so does one whose loss turns out to be NaN or
        infinite, and the model's other rows are computed again without it. If the pass itself fails, every model's rows
        are computed again by themselves, and only the models that fail again get the error; a failed model's gradients
        of this call are not added.

        Args:
            rows: with the loss of each; pairs as chosen and rejected, one behind the other.

        Returns:
            one output or exception per row, in order; a message that names `data[0]` or `data[1]` counts from the
            first row of the pair.
        """
        THREADS.follow_load(Grain.TRAINING)
        results: list[RowOutput | Exception] = [RuntimeError("row was not computed")] * len(rows)
        units: list[Unit] = []
        start = 0
        while start < len(rows):
            size = unit_of(rows[start].loss_fn)
            indices = range(start, min(start + size, len(rows)))
            try:
                units.append(self._check_unit(indices, [rows[i] for i in indices]))
            except Exception as error:
                for i in indices:
                    results[i] = error
            start += size
        # Forward rows apart from the others: their pass keeps no activations.
        for backward in (False, True):
            some = [unit for unit in units if unit[0].row.backward == backward]
            # Together where there is room for all their adapters at once.
            for company in self.memory.companies(some, lambda unit: unit[0].slot):
                self._run_apart(company, backward, results)
        self.references.release_unused({(r.model_id, r.reference) for r in rows if r.reference is not None})
        THREADS.follow_load(Grain.TRAINING)
        return results

    def _check_unit(self, indices: Sequence[int], rows: Sequence[TrainRow]) -> Unit:
        first = rows[0]
        slot = self.adapters.get(first.model_id).slot
        data = [row.datum for row in rows]
        check_training_data(data, first.loss_fn, dict(first.loss_fn_config), self.info, max_datums=len(data))
        reads = LOSSES[first.loss_fn].referenced
        reference = self.references.find(first.model_id, first.reference) if reads else None
        unit = (PackedRow.of(index, row, slot, reference) for index, row in zip(indices, rows, strict=True))
        return share_prompt(tuple(unit))

    def _run_apart(self, units: list[Unit], backward: bool, results: list[RowOutput | Exception]) -> None:
        """Run rows together; where that fails, model by model."""
        models = list(dict.fromkeys(unit[0].row.model_id for unit in units))
        try:
            self._run(units, backward, results)
        except Exception as error:
            if len(models) == 1:
                if is_out_of_memory(error):
                    # An error holds on to its pass's tensors, and the next model is computed while it waits to be told.
                    log.warning("training pass of model %s failed: %s", models[0], str(error))
                    error = MemoryError(str(error))
                else:
                    log.exception("training pass of model %s failed", models[0])
                for row in chain.from_iterable(units):
                    results[row.index] = error
                return
            log.warning("merged pass of %d models failed (%s); running them one by one", len(models), str(error))
        else:
            return
        # Nothing of the merged pass has reached an adapter, so that each model starts from where it was.
        for model_id in models:
            self._run_apart([unit for unit in units if unit[0].row.model_id == model_id], backward, results)

    def _run(self, units: list[Unit], backward: bool, results: list[RowOutput | Exception]) -> None:
        units = self.reference_logprobs.fill_in(units)
        self.memory.use({unit[0].slot for unit in units})
        adapters = [self.adapters.get(model_id) for model_id in {unit[0].row.model_id for unit in units}]
        tiled = self.base.products.tile > 1
        gradients = PassGradients(self.base.wide_dtype)
        if tiled:
            # On top of what is there, datum by datum: however an operation is cut into passes, it is the same sum.
            gradients.flats.update((a.slot, a.grad.clone()) for a in adapters)
        else:
            gradients.fresh.update((a.slot, a.grad) for a in adapters if not a.has_gradients)
        # Tiles add up an adapter's gradient row by row. Units stay small beside a pass, so that it can be cut evenly.
        together = units if tiled else share_prompts(units, self.pass_budget.tokens // _UNITS_PER_PASS)
        grant = self.pass_budget.grant(together, backward)
        try:
            outputs = run_units(self.base, together, grant.tokens, self._chunk, gradients if backward else None)
            for index, output in outputs.items():
                results[index] = output
            diverged = fail_infinite(units, outputs, results)
        except BaseException as error:
            for adapter in adapters:
                adapter.take_back()
            if not is_out_of_memory(error):
                raise
            raise MemoryError(f"{grant.figures} ({error})") from error
        if backward:
            for adapter in adapters:
                if adapter.model_id in diverged:
                    continue
                flat = gradients.flats.get(adapter.slot)
                # A row may touch no weight that this adapter acts on; its step counts all the same.
                adapter.has_gradients = True
                if tiled:
                    adapter.grad.copy_(gradients.flats[adapter.slot])
                elif flat is not None and flat is not adapter.grad:
                    adapter.grad.add_(flat)
            for adapter in adapters:
                adapter.take_back()
        for model_id in diverged:
            # Their gradients of this pass are sums with NaN. What is sound counts as if the rest had never come.
            sound = [u for u in units if u[0].row.model_id == model_id and isinstance(results[u[0].index], RowOutput)]
            if backward and sound:
                self._run_apart(sound, backward, results)
