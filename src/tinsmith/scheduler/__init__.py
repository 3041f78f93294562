"""From journalled operations to engine calls.

`host.EngineHost` is the loop; `shares/` says whose turn it is. Per engine, `engine_scheduler` brings together what can
go on (`ready_models`), the order of each model (`model_queue`), packed passes (`passes`) of what is being trained
(`training_task`), optimizer steps and saves (`barriers`), samples and samplers (`samples/`) and what is written in the
background (`flusher`). `exactly_once` says that each operation runs and is answered once, `at_work` which are running,
`failures` whose fault an error is, `stats` how it goes.
"""
