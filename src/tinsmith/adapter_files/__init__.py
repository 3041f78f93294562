"""Files of adapters, read with suspicion and without torch, so that the service can check what it is sent.

`safetensors_header` reads headers, `peft_config` reads `adapter_config.json`, `peft_parts` and `expert_parts` tell
from names and shapes what the tensors are. Imports only `types/`.
"""
