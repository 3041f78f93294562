"""From journalled operations to engine calls.

`host.EngineHost` is the loop. `accounts` says whose turn it is, by `fairness`; `costs` what passes take. Per engine,
`engine_scheduler` brings together what can go on (`ready_models`), the order of each model (`model_queue`), packed
passes (`passes`), optimizer steps and saves (`barriers`), samples (`sample_queue`), samplers (`sampler_operations`,
`known_samplers`) and what is written in the background (`flusher`). `exactly_once` says that each operation runs and is
answered once, `failures` whose fault an error is, `stats` how it goes.
"""
