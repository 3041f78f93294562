"""Keys and values of sequences, in blocks that they share."""
