"""An engine's environment holds no secret."""

from __future__ import annotations

import pytest

from tinsmith.cluster.child_environment import without_secrets

SECRETS = [
    *("TINSMITH_API_KEY", "TINKER_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "OPENAI_API_KEY", "WANDB_API_KEY"),
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "GOOGLE_APPLICATION_CREDENTIALS"),
    *("AZURE_STORAGE_CONNECTION_STRING", "AZURE_CLIENT_SECRET", "AZURE_STORAGE_KEY", "AZURE_STORAGE_SAS_TOKEN"),
    *(
        "PGPASSWORD",
        "SMTP_PASS",
        "MYSQL_PWD",
        "TINSMITH_DATABASE_URL",
        "TINSMITH_BLOB_URL",
        "SENTRY_DSN",
    ),
    *("github_token", "DB_PASS", "DB_PASSWD", "SSH_PRIVATE_KEY", "NPM_CONFIG__AUTH", "SECRET_KEY_BASE"),
]
NEEDED = [
    "PATH",
    "HOME",
    "PWD",
    "OLDPWD",
    "OMP_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
    "LD_LIBRARY_PATH",
    "PYTHONPATH",
    "HF_HOME",
]
NEEDED += ["TINSMITH_DEVICE", "TINSMITH_MAX_TOKENS_PER_PASS", "TOKENIZERS_PARALLELISM", "KEYBOARD", "PASSTHROUGH"]


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_stays_behind(name: str) -> None:
    assert without_secrets({name: "s3cret"}) == {}


@pytest.mark.parametrize("name", NEEDED)
def test_what_an_engine_needs_comes_with_it(name: str) -> None:
    assert without_secrets({name: "x"}) == {name: "x"}


@pytest.mark.parametrize("value", ["postgresql://ann:s3cret@db/x", "http://u:p@proxy:3128", "redis://:s3cret@host"])
def test_a_url_with_a_password_stays_behind_whatever_its_name(value: str) -> None:
    assert without_secrets({"ANYTHING": value}) == {}
    assert without_secrets({"ANYTHING": "http://proxy:3128/@x"}) == {"ANYTHING": "http://proxy:3128/@x"}
