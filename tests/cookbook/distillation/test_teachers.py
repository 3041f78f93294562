"""Teachers: those that do not fit are named before anything is begun, and what the others say of a text."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from tests.cookbook.distillation.lessons import ITSELF, config, domain
from tests.cookbook.rl.scripted import tiny_renderer
from tests.support.checkpoints import checkpoint
from tests.support.live_server import KEY, LiveServer
from tinsmith import ServiceClient, models
from tinsmith.cookbook.distillation import TeacherSpec, train_off_policy, train_on_policy
from tinsmith.cookbook.distillation.teachers import Scored, Student, Teacher, open_teacher
from tinsmith.cookbook.tokenizer_utils import get_tokenizer
from tinsmith.types.errors import TinsmithError, UserError


@pytest.fixture(scope="module")
def service() -> Iterator[ServiceClient]:
    with ServiceClient() as client:
        yield client


def student(service: ServiceClient, longest: int | None = None, top_k: int = 0) -> Student:
    return Student(service, "tinsmith-tiny", get_tokenizer("tinsmith-tiny"), tiny_renderer(), longest, top_k)


@pytest.fixture(scope="module")
def itself(service: ServiceClient) -> Teacher:
    return open_teacher(ITSELF, student(service), ExitStack())


@pytest.fixture(scope="module")
def short_sighted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model with half of its context."""
    folder = tmp_path_factory.mktemp("models") / "short"
    shutil.copytree(models.path("tinsmith-tiny"), folder)
    described = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(described | {"max_position_embeddings": 512}))
    return folder


@pytest.mark.row(100)
@pytest.mark.parametrize("train", [train_on_policy, train_off_policy], ids=["on", "off"])
def test_another_tokenizer_is_named_and_nothing_is_begun(train: object, tmp_path: Path) -> None:
    spec = TeacherSpec(str(checkpoint("qwen3")))
    message = (
        r"teacher .*qwen3.*: tokenizer: got .265 tokens, '!' as 0., expected that of the student tinsmith-tiny, 280 tok"
    )
    with pytest.raises(UserError, match=message):
        train(config(tmp_path / "run"), "test", [domain(spec)])  # pyright: ignore[reportCallIssue]
    assert nothing_begun(tmp_path / "run")


@pytest.mark.row(100)
def test_a_shorter_context_is_named_and_nothing_is_begun_unless_shorter_answers_are_asked_for(
    short_sighted: Path, tmp_path: Path
) -> None:
    spec = TeacherSpec(str(short_sighted))
    expected = r"context: got .512 tokens., expected at least 1024, as tinsmith-tiny reads; .*max_trajectory_tokens=512"
    with pytest.raises(UserError, match=expected):
        train_on_policy(config(tmp_path / "run"), "test", [domain(spec)])
    assert nothing_begun(tmp_path / "run")
    # The same folder takes the run with settings that fit.
    train_on_policy(config(tmp_path / "run", max_trajectory_tokens=512, max_steps=1), "test", [domain(spec)])
    assert (tmp_path / "run/checkpoints.jsonl").exists()


def nothing_begun(folder: Path) -> bool:
    return not folder.exists()


@pytest.mark.row(100)
def test_a_teacher_that_is_not_there_is_named(service: ServiceClient) -> None:
    with pytest.raises(TinsmithError, match="teacher no-such-model: "):
        open_teacher(TeacherSpec("no-such-model"), student(service), ExitStack())
    with pytest.raises(UserError, match=r"teacher: got .model a, path tinker://b., expected .* one of them"):
        open_teacher(TeacherSpec("a", "tinker://b"), student(service), ExitStack())


def test_more_likely_tokens_than_the_service_gives_are_refused_at_the_door(service: ServiceClient) -> None:
    with pytest.raises(TinsmithError, match=r"teacher tinsmith-tiny: .*topk_prompt_logprobs: got 65, expected 0 to 64"):
        open_teacher(ITSELF, student(service, top_k=65), ExitStack())


def test_a_prompt_that_leaves_the_teacher_no_room_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"context: got .1024 tokens., expected more than"):
        train_on_policy(config(tmp_path / "run"), "test", [domain(sees="{answer}" + "x" * 1020)])


@pytest.mark.row(100)
def test_what_it_says_of_a_text_is_what_its_service_computes(service: ServiceClient, itself: Teacher) -> None:
    tokens = get_tokenizer("tinsmith-tiny").encode("copy: hello world")
    expected = service.create_sampling_client(base_model="tinsmith-tiny").compute_logprobs(tokens).result()
    text = Scored(tokens[:6], tokens[6:])
    (found,) = itself.logprobs([text])
    assert found == pytest.approx(expected[6:], abs=1e-5)
    (likeliest,) = itself.likeliest([text], 3)
    assert likeliest.own == pytest.approx(found, abs=1e-5)
    assert likeliest.ids.shape == likeliest.logprobs.shape == (11, 3)
    assert (np.diff(likeliest.logprobs) <= 0).all()
    # Where the token that was said is the likeliest, both have its logprob.
    said = likeliest.ids[:, 0] == tokens[6:]
    assert said.any()
    assert likeliest.logprobs[said, 0] == pytest.approx(likeliest.own[said])


def test_behind_what_it_reads_it_says_nothing(itself: Teacher) -> None:
    said = [65] * 1024
    texts = [Scored([66] * 1000, said[:100]), Scored([66] * 1024, said[:2]), Scored([66], said[:2])]
    long, none, short = itself.logprobs(texts)
    assert [value is None for value in long] == [False] * 23 + [True] * 77
    assert none == [None, None]
    assert None not in short
    long, none, short = itself.likeliest(texts, 2)
    assert np.isnan(long.own).tolist() == [False] * 23 + [True] * 77
    assert np.isinf(none.logprobs).all()
    assert np.isfinite(short.logprobs).all()


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.row(100)
def test_a_teacher_may_live_on_another_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same model there teaches the same, and its service goes on when the run has ended."""
    monkeypatch.setenv("TINSMITH_API_KEY", KEY)
    server = LiveServer(tmp_path, models={"teacher": models.path("tinsmith-tiny")})
    server.start()
    try:
        there = domain(TeacherSpec("teacher", None, server.url))
        for name, teacher in (("there", there), ("here", domain())):
            train_on_policy(config(tmp_path / name, top_k=4), "test", [teacher])
        found, expected = (
            [
                json.loads(line)["train/teacher_kl"]
                for line in (tmp_path / name / "metrics.jsonl").open()
                if "loss" in line
            ]
            for name in ("there", "here")
        )
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-3)
        assert len(found) == 2
    finally:
        server.stop()
