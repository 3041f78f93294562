"""Files of adapters that are read with suspicion."""
