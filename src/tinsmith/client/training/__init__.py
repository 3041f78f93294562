"""`training_client.TrainingClient`: one adapter being trained, each call submitted at once and kept in order.

`ordered_calls` keeps the order, `batch_requests` sends batches in it, `training_ops` all else;
`custom_loss` is computed here, as is `preference_fallback`; `preference_pairs` are read in three forms.
May import every other room of the client.
"""
