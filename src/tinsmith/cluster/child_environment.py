"""The environment of an engine's process: the service's own but for secrets, and how libraries are to work there.

An engine computes with folders that are there already: it asks no hub, no database and no cloud, so it needs no key of
any of them. Told by their names, because nobody can list all the programs that leave a secret in an environment.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from tinsmith.cluster.allocator import huge_pages
from tinsmith.cluster.openmp import waiting

# The words that names of secrets are made of, between underscores: HF_TOKEN, AWS_SECRET_ACCESS_KEY, PGPASSWORD, ...
_NAME = re.compile(
    r"KEYS?$|TOKENS?$|SECRETS?(_|$)|PASS(WORD|WD|PHRASE)$|(?<!_PER)_PASS$|_PWD$|CREDENTIALS?(_|$)|(^|_)(AUTH|DSN|SAS|COOKIES?)$"
    r"|CONNECTION_STRING|DATABASE_URL|BLOB_URL|PRIVATE_KEY|(^|_)KEY_",
    re.IGNORECASE,
)
# A URL with a user and a password, whatever it is called.
_VALUE = re.compile(r"^[a-z][a-z0-9+.-]*://[^/@\s]*:[^/@\s]+@", re.IGNORECASE)


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that hold no secret, by their names and by the form of their values."""
    return {name: value for name, value in environment.items() if not _NAME.search(name) and not _VALUE.search(value)}


def engine_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of an engine's process, which a process with this environment starts."""
    return without_secrets(environment) | waiting(environment) | huge_pages(environment)
