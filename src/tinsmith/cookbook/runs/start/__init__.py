"""What a start of a run does before its first step: takes the folder, holds it to its settings, notes what made it.

`made_folder` makes it and gives it back; `run_lock` keeps others out; `folder` and `held_facts` compare settings and
facts with those of the first start; `code_version` says what the run was made with.
"""
