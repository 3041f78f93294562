"""`TrainingClient`: order, batches, custom losses, saves."""
