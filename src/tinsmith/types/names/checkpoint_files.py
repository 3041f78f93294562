"""Names of the files that a checkpoint's folder holds."""

from __future__ import annotations

# The names that PEFT gives them, so that the folder of a dense adapter loads in PEFT, vLLM and SGLang as it is.
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
# Ours, in training states only: PEFT has no name for an optimizer.
OPTIMIZER = "optimizer.safetensors"
# Ours too: what a run measured preferences against, where that is not the base.
REFERENCE_WEIGHTS = "reference_model.safetensors"
