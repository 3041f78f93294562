"""Files of adapters, read with suspicion and without torch, so that the service can check what it is sent.

`peft_config` reads `adapter_config.json`, `peft_parts` and `expert_parts` tell from names and shapes what the tensors
are, `servers` says which other servers load them, `model_card` writes the page beside them.
"""
