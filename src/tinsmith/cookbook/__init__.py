"""The cookbook: everything between a person's data and the four verbs of the SDK.

`renderers/` and `supervised` turn conversations into datums, `datasets/` holds what ships, `recipes/` the training
loops; `model_info`, `utils` (learning rate) and `tokenizer_utils` know models; `demo` is the command of that name.
"""
