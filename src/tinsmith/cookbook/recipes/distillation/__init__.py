"""Distillation: a student learns from a teacher, by its own answers, by the teacher's, or by both for comparison.

`train` runs it; `config` holds its settings; `distillation_dataset` has the prompts and their domains;
`shipped_teacher` trains the teacher that the recipe takes where none is named.
"""
