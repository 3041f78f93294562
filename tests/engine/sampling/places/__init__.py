"""Places in the batch and blocks of the cache: who waits, who holds what, who gives way."""
