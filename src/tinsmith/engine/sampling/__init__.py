"""Sampling: `sampler` loops in bounded steps; `schedule` picks tokens, `sample_pass` computes, `next_tokens` draws.

`open_groups` begins, forks and ends requests; `places/` decides whose sequences have room; `block_manager`, `kv_cache`,
`paged_attention` hold keys and values; `stops` ends, `prompt_scores` rates prompts, `finished_group` answers. May
import `model/` and `adapters/`; knows nothing of training or of files.
"""
