"""How tinsmith-tiny is made: tokenizer, mixture (one module per group of skills), training, evaluation.

`mixture` draws examples, `render` turns them into ids and weights, `train` and `evaluate` use both.
Driven by scripts/make_tiny.py; described in docs/embedded-model.md.
"""
