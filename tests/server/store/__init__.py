"""What is on disk: keys, checkpoints, journal, blobs."""
