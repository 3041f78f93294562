"""What training and evaluation need beyond the SDK: looked for when this is imported, so that what is missing is said.

The packages that train and evaluate import it before anything else of theirs; renderers and chat do without.
"""

import sys
from importlib.util import find_spec

PACKAGES = ("chz", "datasets", "filelock", "matplotlib", "orjson", "pyarrow", "transformers")


def check() -> None:
    """Check that the packages of the `cookbook` extra are there.

    Raises:
        ModuleNotFoundError: naming the first that is not; `python -m` of a recipe ends with the sentence alone.
    """
    # Looked for, not imported: that would cost every command the time of the slowest of them.
    missing = next((name for name in PACKAGES if find_spec(name) is None), None)
    if missing is None:
        return
    message = f'the cookbook needs {missing}, which is not installed: pip install "tinsmith[cookbook]"'
    # That is what Python puts there while it looks for the module that `-m` names.
    if sys.argv[:1] == ["-m"]:
        raise SystemExit(message)
    raise ModuleNotFoundError(message, name=missing)


check()
