"""The `batch_invariant` mode: sums over a row or a query have one order, whoever else is in the pass."""
