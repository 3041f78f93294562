"""From a checkpoint's folder to a base model: its weights, their names in the files, and what is refused.

`base_loading` is the face. `architecture` refuses by what a config declares, `probe` by what a loaded model computes,
`loading_faults` says which file and field is to blame for what a loader raises.
"""
