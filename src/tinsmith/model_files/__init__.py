"""A base model's folder, read with suspicion and without torch: whatever is wrong is said with file and field.

`reading` reads one file, `safetensors_header` the head of weights; `folder` looks through config, companions and
weights; `tokenizer_json` makes a tokenizer, `tokenizer_fields` says what else a folder tells of it.
"""
