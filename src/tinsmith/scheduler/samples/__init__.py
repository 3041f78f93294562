"""Samples and samplers of one engine.

`waiting_samples` holds what is still to begin, `sample_queue` lets it in and answers, `sample_jobs` reads requests;
`sampler_operations` loads and releases samplers, `known_samplers` tells which can be sampled from.
"""
