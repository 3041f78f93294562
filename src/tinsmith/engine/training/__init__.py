"""Training: rows become packed streams (`packing`), a pass gives losses and gradients (`training_pass`, `losses`,
`paired_losses`), rows whose loss is infinite fail (`finite_losses`); what pairs are measured against is computed once
(`reference_logprobs`).

May import `model/` and `adapters/`; knows nothing of sampling or of files.
"""
