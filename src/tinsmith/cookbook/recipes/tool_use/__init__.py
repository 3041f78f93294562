"""Tool use: questions whose answers stand in documents that the model has to search.

`train` runs it; `config` holds its settings; `tool_use_dataset` has documents and questions, drawn or of files;
`tool_use_env` is one question with its search tools; `matching` says which answers are right.
"""
