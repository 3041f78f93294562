"""`TrainingClient`: order, chunks, custom losses, saves."""
