"""Tools that a model may call: declared as annotated functions, called within limits, played as environments.

`schema` makes a JSON schema of a function, `tool` declares it; `calls` makes the calls of a turn and names what goes
wrong, `threads` keeps functions of others from holding up the loop; `tool_env` is the environment, `document_index` a
full-text index to search.
"""
