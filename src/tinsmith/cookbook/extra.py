"""What training and evaluation need beyond the SDK: looked for when this is imported, so that what is missing is said.

The packages that train and evaluate import it before anything else of theirs; renderers and chat do without.
"""

from tinsmith.cookbook.installed import require

PACKAGES = ("chz", "datasets", "docstring_parser", "filelock", "matplotlib", "orjson", "pyarrow", "transformers")

require(PACKAGES, "cookbook", "the cookbook")
