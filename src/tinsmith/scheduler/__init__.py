"""From journalled operations to engine calls.

`host.EngineHost` is the loop. Per engine, `engine_scheduler` brings together the order of each model (`model_queue`),
packed passes (`training`), optimizer steps and saves (`barriers`), sampling (`sampling`, `samplers`) and what is
written in the background (`flusher`). `fairness` says whose turn it is, `answers` that each operation is answered
once, `failures` whose fault an error is, `stats` how it goes.
"""
