"""Telling base models apart by their weights.

`fingerprint` is a digest of a sample, from a loaded model or from its files; checkpoints carry it. `weights_digest`
sees every number of a loaded model; what is alive while a service restarts is held to it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from tinsmith.engine.adapters.layouts import Target
from tinsmith.engine.checkpoints.base_folder import BaseFolder
from tinsmith.engine.model.base_model import BaseModel
from tinsmith.engine.model.loading.architecture import find_targets

# Under this key the metadata of an adapter's safetensors say which base it was trained on.
METADATA_KEY = "tinsmith_base"
# Elements of each sampled weight that tell one base from another.
_SAMPLE = 4096
# Elements that are summed at a time: bounds the copies that are made.
_CHUNK = 2**22
_ROW = 4096


def fingerprint(base: BaseModel) -> str:
    """Tell base models apart by the shapes of their targets and a sample of their weights.

    The sample is rounded to bfloat16, so that one base gives one fingerprint whatever dtype it computes in.
    """
    weights = (weight.detach() for _, weight in sorted(base.decoder.named_parameters()) if weight.dim() > 1)
    return _digest(base.info.model_type, base.targets, (_sample([weight]) for weight in weights))


def weights_digest(base: BaseModel) -> str | None:
    """Return a digest that another number anywhere in the weights changes; None where each rank has a part of them.

    Of the bits of each weight in bfloat16, so that the compute dtype does not matter, it takes sums over rows and
    columns of 4096 elements, four of them at a time as one whole number modulo 2^64. No order of summation changes
    those, so that a device can take them where the weights are.
    """
    if base.group is not None:
        return None
    found = hashlib.sha256(base.info.model_type.encode())
    seen: set[int] = set()
    for _, weight in [*sorted(base.decoder.named_parameters()), *sorted(base.head.named_parameters())]:
        if id(weight) in seen:  # a head that is tied to the embedding
            continue
        seen.add(id(weight))
        found.update(str(tuple(weight.shape)).encode())
        for chunk in weight.detach().reshape(-1).split(_CHUNK):
            bits = chunk.to(torch.bfloat16).view(torch.int16)
            whole = bits.numel() // _ROW * _ROW
            rows = bits[:whole].view(torch.int64).view(-1, _ROW // 4)
            for sums in (rows.sum(0), rows.sum(1), bits[whole:]):
                found.update(sums.cpu().numpy().tobytes())
    return found.hexdigest()


def fingerprint_of_folder(base: BaseFolder) -> str | None:
    """Return the fingerprint of a checkpoint that is not loaded; None where its weights are stored as none can follow.

    Raises:
        UserError: the config is of no model that is served.
    """
    decoder = base.model.get_decoder()
    prefix = next(path for path, module in base.model.named_modules() if module is decoder)
    sampled = sorted(f"{prefix}.{name}" for name, weight in decoder.named_parameters() if weight.dim() > 1)
    names = [base.names.file_names(name) for name in sampled]
    if not all(names):
        return None
    targets = find_targets(str(base.folder), base.model, base.model.config)
    samples = (_sample([base.read(name) for name in pieces]) for pieces in names)
    return _digest(base.model.config.model_type, targets, samples)


def _digest(model_type: str, targets: Iterable[Target], samples: Iterable[Tensor]) -> str:
    digest = hashlib.sha256(model_type.encode())
    for t in targets:
        digest.update(f"{t.name}:{t.inputs}:{t.outputs}:{t.experts};".encode())
    for sample in samples:
        digest.update(sample.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()


def _sample(pieces: Sequence[Tensor]) -> Tensor:
    """Return elements of a weight at even distances, bfloat16 on the CPU.

    Args:
        pieces: the weight; or, laid end to end, the same numbers in the same order.
    """
    # At even distances over the whole, so that a base fine-tuned in a few layers is told apart as well.
    numel = sum(piece.numel() for piece in pieces)
    places = torch.arange(0, numel, max(1, numel // _SAMPLE))[:_SAMPLE]
    found: list[Tensor] = []
    start = 0
    for piece in pieces:
        inside = places[(places >= start) & (places < start + piece.numel())] - start
        found.append(piece.reshape(-1)[inside.to(piece.device)].to("cpu", torch.bfloat16))
        start += piece.numel()
    return torch.cat(found)
