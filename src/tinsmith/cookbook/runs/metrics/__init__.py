"""What a run measures: one row a step, in order, to everybody who listens.

`metric_log` takes the rows; `console`, `wandb_sink` and `tensorboard_sink` are its `sinks` (`optional_sinks` opens the
latter two where settings ask for them); `watches` looks at every row and warns.
"""
