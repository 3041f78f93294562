"""The same steps in plain transformers + PEFT + torch in float64, started from the files that the service saved."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tinker
import torch
from safetensors.numpy import load_file
from torch import Tensor

from tests.official.batches import LOSS_CASES, RECORDED_CASES, Array
from tests.support.peft_reference import load_reference, reference_logprobs


class Reference:
    """A PEFT model that trains as the service should.

    Args:
        base: folder of the base model.
        adapter: a saved adapter of the service, a plain PEFT folder.
    """

    def __init__(self, base: Path, adapter: Path) -> None:
        self.model = load_reference(base, adapter, torch.float64)
        self.parameters = {n: p for n, p in self.model.named_parameters() if p.requires_grad}

    def target_logprobs(self, data: Sequence[tinker.Datum]) -> list[Tensor]:
        """Return the logprobs of each datum's targets, of the targets' shape."""
        rows = reference_logprobs(self.model, [datum.model_input.to_ints() for datum in data])
        found = []
        for row, datum in zip(rows, data, strict=True):
            targets = torch.from_numpy(datum.loss_fn_inputs["target_tokens"].to_numpy().copy())
            found.append(row.gather(-1, targets.reshape(len(row), -1)).reshape(targets.shape))
        return found

    @torch.no_grad()
    def forward(self, data: Sequence[tinker.Datum]) -> list[Array]:
        """Return the target logprobs as arrays."""
        return [lp.numpy() for lp in self.target_logprobs(data)]

    def backward(self, case: str, data: Sequence[tinker.Datum]) -> float:
        """Add the gradients of a loss, by autograd; return the loss."""
        pairs = zip(self.target_logprobs(data), data, strict=True)
        loss = torch.stack([_loss(case, lp, datum) for lp, datum in pairs]).sum()
        loss.backward()
        return loss.item()

    def gradients(self) -> dict[str, Array]:
        """Return and clear the gradients, by the names of `adapter_model.safetensors`."""
        found = {_file_name(n): p.grad.numpy().copy() for n, p in self.parameters.items() if p.grad is not None}
        self.model.zero_grad(set_to_none=True)
        return found

    def weights(self) -> dict[str, Array]:
        """Return the adapter's weights, by the names of `adapter_model.safetensors`."""
        return {_file_name(name): p.detach().numpy().copy() for name, p in self.parameters.items()}

    @torch.no_grad()
    def next_logits(self, tokens: Sequence[int]) -> Tensor:
        """Return the logits at every position of one sequence, float64, [N, V]."""
        return self.model(input_ids=torch.tensor([list(tokens)])).logits[0]


def _file_name(name: str) -> str:
    return name.replace(".default.", ".").replace(".default", "")


def _loss(case: str, lp: Tensor, datum: tinker.Datum) -> Tensor:
    """The formulas of the protocol in torch, for their gradients."""
    loss_fn, config = (LOSS_CASES | RECORDED_CASES)[case]
    inputs = {k: torch.from_numpy(v.to_numpy().copy()).double() for k, v in datum.loss_fn_inputs.items()}
    if loss_fn == "cross_entropy":
        return -(inputs["weights"] * lp).sum()
    q, advantage = inputs["logprobs"], inputs["advantages"]
    ratio = (lp - q).exp()
    low, high = config.get("clip_low_threshold", 0.8), config.get("clip_high_threshold", 1.2)
    if loss_fn == "importance_sampling":
        return -(ratio * advantage).sum()
    if loss_fn == "ppo":
        return -torch.minimum(ratio * advantage, ratio.clamp(low, high) * advantage).sum()
    if loss_fn == "cispo":
        return -(ratio.clamp(low, high).detach() * lp * advantage).sum()
    if loss_fn == "gspo":
        of_sequence = (lp.detach() - q)[inputs["sequence_ratio_mask"] != 0].mean().exp()
        ratio = of_sequence * (lp - lp.detach()).exp()
        return -torch.minimum(ratio * advantage, ratio.clamp(low, high) * advantage).sum()
    on = advantage != 0
    if loss_fn == "stable_reinforce":
        cap, kl_coeff = config.get("clip_high_threshold", 2.0), config.get("kl_coeff", 0.01)
        tangent = cap - 1 - np.log(cap) + (cap - 1) * (lp - q - np.log(cap))
        penalty = torch.where(ratio <= cap, ratio - 1 - (lp - q), tangent)
        return (-ratio.clamp(max=cap).detach() * lp * advantage + kl_coeff * penalty)[on].sum()
    assert loss_fn == "dro"
    return -(lp * advantage - 0.5 * config["beta"] * (lp - q) ** 2)[on].sum()


def adapter_weights(folder: Path) -> dict[str, npt.NDArray[np.float32]]:
    """Read a saved adapter's weights."""
    return load_file(folder / "adapter_model.safetensors")


def distance(found: dict[str, Array], wanted: dict[str, Array]) -> float:
    """Return the largest ‖difference‖ / ‖wanted‖ over tensors."""
    assert found.keys() == wanted.keys()
    return max(
        float(np.linalg.norm(found[name] - wanted[name]) / max(float(np.linalg.norm(wanted[name])), 1e-30))
        for name in wanted
    )
