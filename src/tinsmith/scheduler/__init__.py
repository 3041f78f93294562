"""From journalled operations to engine calls.

`host.EngineHost` is the loop. Per engine, `engine_scheduler` brings together the order of each model (`model_queue`),
packed passes (`passes`), optimizer steps and saves (`barriers`), samples (`sample_queue`), samplers
(`sampler_operations`, `known_samplers`) and what is written in the background (`flusher`). `fairness` says whose turn
it is, `exactly_once` that each operation runs and is answered once, `failures` whose fault an error is, `stats` how it
goes.
"""
