"""Samples and samplers: the queue, loads and releases, and which samplers can be sampled from."""
