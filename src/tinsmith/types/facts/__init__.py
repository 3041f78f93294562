"""Small facts: which models there are (`lineup`, `base_model_info`), which losses (`loss_table`), which rate is usual.

`learning_rate` has the course's formula. Imports only the data of `types/`.
"""
