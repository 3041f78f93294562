"""The renderer of any chat template: `template_renderer` runs the template itself, so that no format has to be known.

`template_text` runs it with marks in the place of texts, `template_spans` finds which tokens are whose, and
`template_reading` finds out how a template writes tool calls, to read them back.
"""
