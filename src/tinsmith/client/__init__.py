"""The SDK: what a training script talks to. No torch, no server code.

Clients (`service_client`, `training_client`, `sampling_client`, `rest_client`) over `session`, `connection`, `polling`;
order (`line`, `ordered`, `chunks`), results (`futures`, `completions`, `saved_path`), text (`tokenizer*`).
"""
