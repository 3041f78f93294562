"""What things are called: headers and media types (`http_names`), files of a checkpoint (`checkpoint_files`), `ids`.

`paths` are addresses of checkpoints, `tinker://RUN/KIND/NAME`.
"""
