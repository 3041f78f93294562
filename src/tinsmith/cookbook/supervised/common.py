"""Shifting and the mean loss, under the module's name in the cookbook of the hosted service."""

from tinsmith.cookbook.batches.datums import datum_from_tokens_weights
from tinsmith.cookbook.batches.loss_metrics import compute_mean_nll

__all__ = ["compute_mean_nll", "datum_from_tokens_weights"]
