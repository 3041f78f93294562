"""`training_client.TrainingClient`: one adapter being trained, each call submitted at once and kept in order.

`training_ops` and `ordered_calls` send, `chunks` cuts batches, `custom_loss` computes losses on the caller's side.
May import every other room of the client.
"""
