"""How long an engine takes for a pass, a step of the sampler and the small operations."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path

from tinsmith.types.errors import invalid


@dataclass(frozen=True)
class Costs:
    """Seconds on the device; each kind of work takes the sum of its terms.

    Attributes:
        pass_s, pass_adapter_s, pass_token_s: a training pass, and for each adapter and each token in it.
        step_s, step_adapter_s: a step of the sampler, and for each adapter in it.
        prefill_token_s: each token of a prompt.
        decode_row_s, cached_token_s: each sequence that gets a token, and each token of it that is in the cache.
        update_s: an optimizer step.
        small_s: making or releasing a model or a sampler, and a snapshot.
        write_s: writing a snapshot to the disk, which goes on beside the device's work.
    """

    pass_s: float
    pass_adapter_s: float
    pass_token_s: float
    step_s: float
    step_adapter_s: float
    prefill_token_s: float
    decode_row_s: float
    cached_token_s: float
    update_s: float
    small_s: float
    write_s: float

    def train(self, tokens: int, adapters: int) -> float:
        """Return the time of a pass."""
        return self.pass_s + self.pass_adapter_s * adapters + self.pass_token_s * tokens

    def prefill(self, tokens: int, adapters: int) -> float:
        """Return the time of a step that computes prompts."""
        return self.step_s + self.step_adapter_s * adapters + self.prefill_token_s * tokens

    def decode(self, rows: int, adapters: int, cached: int) -> float:
        """Return the time of a step that draws one token for each of some sequences."""
        each = self.decode_row_s * rows + self.cached_token_s * cached
        return self.step_s + self.step_adapter_s * adapters + each


def _h100_8b() -> Costs:
    """Llama-3.1-8B with adapters of rank 32 on an H100 SXM: the vendor's figures times a usual efficiency.

    Not measured. A frozen base costs 2 FLOPs per parameter and token forward, and 2 backward for what flows to the
    adapters below.
    """
    parameters, layers, adapter = 8.03e9, 32, 88e6
    flops = 0.4 * 989e12  # bfloat16 without sparsity
    bandwidth = 0.7 * 3.35e12  # bytes per second
    launches = 25 * layers * 5e-6  # kernels of a forward
    cell = 2 * layers * 8 * 128 * 2  # bytes of keys and values of a token
    return Costs(
        pass_s=3 * launches,
        pass_adapter_s=3 * 2 * adapter / bandwidth,
        pass_token_s=4 * parameters / flops,
        step_s=2 * parameters / bandwidth + launches,
        step_adapter_s=2 * adapter / bandwidth,
        prefill_token_s=2 * parameters / flops,
        decode_row_s=20e-6,  # the distribution over 128,256 tokens
        cached_token_s=cell / bandwidth,
        update_s=28 * adapter / bandwidth + 2e-3,
        small_s=2e-3,
        write_s=4 * adapter / 1e9,
    )


# By the name that `--costs` takes.
KNOWN = {"h100-8b": _h100_8b}


def read_costs(source: str) -> Costs:
    """Return known costs, or those that `--measure` wrote to a file.

    Raises:
        UserError: there are none of this name, or the file holds something else.
    """
    if source in KNOWN:
        return KNOWN[source]()
    names = {field.name for field in fields(Costs)}
    try:
        found = json.loads(Path(source).read_text())
    except (OSError, ValueError) as error:
        raise invalid("costs", source, f"one of {', '.join(KNOWN)}, or a JSON file of costs ({error})") from error
    if not isinstance(found, dict) or set(found) != names:
        raise invalid(f"costs {source}", sorted(found), f"exactly {', '.join(sorted(names))}")
    for name, value in found.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
            raise invalid(f"costs {source}: {name}", value, "seconds, at least 0")
    return Costs(**found)
