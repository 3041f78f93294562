"""Twenty questions: what is asked for, who answers, what goes wrong there, and what simple askers come to."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from tests.cookbook.recipes.multiplayer_rl.speaker import RENDERER, Speaker, metrics_of, played, turns
from tinsmith import ModelInput
from tinsmith.cookbook import notices
from tinsmith.cookbook.recipes.multiplayer_rl.simple_players import measured
from tinsmith.cookbook.recipes.multiplayer_rl.twenty_questions import askers
from tinsmith.cookbook.recipes.multiplayer_rl.twenty_questions.answerers import (
    Answerer,
    ModelAnswerer,
    RuleAnswerer,
    yes_or_no,
)
from tinsmith.cookbook.recipes.multiplayer_rl.twenty_questions.questions import topic_of
from tinsmith.cookbook.recipes.multiplayer_rl.twenty_questions.things import (
    CATEGORIES,
    THINGS,
    true_of,
    with_article,
)
from tinsmith.cookbook.recipes.multiplayer_rl.twenty_questions.twenty_questions_env import TwentyQuestionsEnv
from tinsmith.cookbook.rl import EnvError, EnvFromMessageEnv, RepeatedEnv
from tinsmith.cookbook.rl.rollouts.env_errors import ErrorPolicy
from tinsmith.cookbook.tokenizer_utils import get_tokenizer
from tinsmith.types.errors import APIStatusError, NotFoundError, TinsmithError

pytestmark = pytest.mark.row(72, 99)


@pytest.fixture(autouse=True)
def _fresh_notices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "_said", set())


def game(secret: str, answerer: Answerer | None = None, most: int = 20, size: int = 1, **options: Any) -> RepeatedEnv:
    made = answerer or RuleAnswerer()
    return RepeatedEnv(lambda: EnvFromMessageEnv(RENDERER, TwentyQuestionsEnv(secret, made, most, **options)), size)


def asking(*questions: str) -> Speaker:
    said = iter(questions)
    return Speaker(lambda text, rng: next(said))


@pytest.mark.parametrize(
    ("question", "topic"),
    [
        ("Is it a cat?", "cat"),
        ("Is it an animal?", "animal"),
        ("Is it clothes?", "clothes"),
        ("is it the cat", "cat"),
        ("Guess: cat", "cat"),
        ("So, is it a kind of food?", "food"),
        ("Is it bigger than a person?", "bigger than a person"),
        ("Can it fly?", "can it fly"),
        ("Let me think.\nIs it red?", "red"),
        ("Is it a cat or a dog?", "cat or a dog"),
        *((said, "") for said in ("", "?!", "Is it a")),
    ],
)
def test_what_a_question_asks_for(question: str, topic: str) -> None:
    assert topic_of(question) == topic


def test_the_rule_knows_its_world() -> None:
    assert len(THINGS) == len(set(THINGS)) == 54
    for category, things in CATEGORIES.items():
        for thing in THINGS:
            for topic, expected in ((category, thing in things), (thing, True), (things[0], thing == things[0])):
                asked = RuleAnswerer().answer(thing, f"Is it {with_article(topic)}?")
                assert asyncio.run(asked) is expected, (topic, thing)
    known = {
        ("eagle", "Can it fly?"): True,
        ("eagle", "Is it a mammal?"): False,
        ("carrot", "Is it edible?"): True,
        ("red", "Is it a physical object?"): False,
        ("knife", "Is it sharp?"): True,
        ("sock", "Can you wear it?"): True,
        ("truck", "Does it have wheels?"): True,
        ("truck", "Is it famous?"): None,
    }
    for (secret, question), expected in known.items():
        assert asyncio.run(RuleAnswerer().answer(secret, question)) is expected, question
    assert true_of("alive") == frozenset(CATEGORIES["animal"])


def test_a_game_from_the_first_question_to_the_last() -> None:
    policy = asking("Is it a tool?", "Is it an animal?", "Is it a lion?", "Is it a cat?")
    done = played(game("cat"), policy)
    (trajectory,) = done.trajectories
    assert [t.episode_done for t in trajectory.transitions[:-1]] == [False] * 3
    assert all(t.reward > 0 for t in trajectory.transitions)
    assert (trajectory.end_reason, trajectory.reward) == ("found", pytest.approx(0.5 + 0.5 * 17 / 20))
    assert metrics_of(done) == {"found": 1.0, "questions": 4.0, "wasted": 0.0, "unclear": 0.0}
    assert turns(policy.read[-1])[::2] == [
        "<|user|>I am thinking of something. Ask me yes or no questions.",
        "<|user|>No.",
        "<|user|>Yes.",
        "<|user|>No.",
    ]


def test_questions_that_tell_nothing_are_counted() -> None:
    policy = asking("Is it an animal?", "Is it a tool?", "", "Why?", "Is it a dog?", "Is it a dog?")
    done = played(game("cat", most=6), policy)
    (trajectory,) = done.trajectories
    # Eight of 54 things are left: the animals without the dog.
    assert trajectory.end_reason == "out_of_questions"
    assert trajectory.reward == pytest.approx(0.5 - 0.5 * math.log(8) / math.log(54))
    assert metrics_of(done) == pytest.approx({"found": 0.0, "questions": 6.0, "wasted": 4 / 6, "unclear": 2 / 6})
    assert turns(policy.read[3])[-2] == "<|user|>I can't say. Ask a yes or no question."


@pytest.mark.parametrize("said", ["Is it a tool?", "Is it a hammer?", "Is it an animal?", "Is it alive?", "Why?", ""])
def test_a_question_that_tells_nothing_is_paid_nothing(said: str) -> None:
    done = played(game("cat"), asking("Is it a dog?", "Is it an animal?", said, "Is it a cat?"))
    rewards = [transition.reward for transition in done.trajectories[0].transitions]
    assert [reward > 0 for reward in rewards] == [True, True, False, True]
    assert rewards[2] == 0.0
    assert done.trajectories[0].reward == pytest.approx(0.5 + 0.5 * 17 / 20)
    # What is left in an open world nobody knows, so only the secret itself is paid.
    open_world = played(game("cat", answering(Service("No."))), asking("Is it a dog?", "Is it a cat?"))
    assert [transition.reward for transition in open_world.trajectories[0].transitions] == [0.0, pytest.approx(0.975)]


def test_the_same_seed_gives_the_same_games() -> None:
    def any_thing(text: str, rng: Random) -> str:
        return f"Is it {with_article(rng.choice([*THINGS, *CATEGORIES]))}?"

    first, again, another = (played(game("cat", size=3), Speaker(any_thing), seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first.trajectories != another.trajectories


def test_a_context_that_is_full_in_the_middle_of_a_game_is_named() -> None:
    done = played(game("cat"), Speaker(lambda text, rng: "Is it a dog?", context_length=150))
    assert done.trajectories[0].end_reason == "context"
    assert done.trajectories[0].reward == pytest.approx(0.5 - 0.5 * math.log(53) / math.log(54))
    assert metrics_of(done)["questions"] == 20.0


# -- a model that answers ---------------------------------------------------------------------------------------------


class Sampler:
    """Answers with what a function says of the prompt's text, or raises what it is given."""

    def __init__(self, service: Service) -> None:
        self.service = service

    def get_base_model(self) -> str:
        return "tinsmith-tiny"

    def get_tokenizer(self) -> Any:
        return get_tokenizer("tinsmith-tiny")

    async def sample(self, prompt: ModelInput, num_samples: int, sampling_params: Any) -> Any:
        assert sampling_params.temperature == 0.0
        await asyncio.sleep(0)
        text = self.get_tokenizer().decode(prompt.to_ints())
        self.service.asked.append(text)
        error = self.service.errors.pop(0) if self.service.errors else None
        if error is not None:
            raise error
        tokens = self.get_tokenizer().encode(f"{self.service.says}<|end|>")
        return SimpleNamespace(sequences=[SimpleNamespace(tokens=tokens)])


class Service:
    def __init__(self, says: str = "No.", errors: Sequence[Exception | None] = ()) -> None:
        self.says, self.errors = says, list(errors)
        self.asked: list[str] = []
        self.opened: list[Sampler] = []

    def create_sampling_client(self, model_path: str | None = None, base_model: str | None = None) -> Sampler:
        assert (model_path, base_model) == (None, "tinsmith-tiny")
        self.opened.append(Sampler(self))
        return self.opened[-1]


def answering(service: Any) -> ModelAnswerer:
    return ModelAnswerer(service, "tinsmith-tiny", seed=4)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        *((said, True) for said in ("Yes.", "yes")),
        *((said, False) for said in ("No, it is not.", "**No**")),
        *((said, None) for said in ("Not sure", "", "Maybe yes", "Nobody knows")),
    ],
)
def test_answers_that_are_understood(said: str, expected: bool | None) -> None:
    assert yes_or_no(said) is expected
    service = Service(said)
    assert asyncio.run(answering(service).answer("cat", "Is it big?")) is expected
    assert service.asked == [
        "<|system|>The secret is cat. Answer only yes or no.<|end|><|user|>Is it big?<|end|><|assistant|>"
    ]


def test_whether_the_secret_was_found_is_not_left_to_the_model() -> None:
    service = Service("Yes.")
    done = played(game("cat", answering(service)), asking("Is it a dog?", "Is it a dog?", "Is it a cat?"))
    assert metrics_of(done)["questions"] == 3
    assert len(service.asked) == 1  # the same question has the same answer


def test_an_answerer_whose_sampler_has_expired_is_made_anew(caplog: pytest.LogCaptureFixture) -> None:
    gone = (NotFoundError("no sampler s1", status_code=404), APIStatusError("it was cleared away", status_code=410))
    service = Service("No.", [gone[0], None, gone[1]])
    done = played(game("cat", answering(service)), asking("Is it a dog?", "Is it a cow?", "Is it a cat?"))
    assert metrics_of(done) == {"found": 1.0, "questions": 3.0, "wasted": 0.0, "unclear": 0.0}
    assert len(service.opened) == 3
    assert "answerer_model tinsmith-tiny: no sampler s1; its sampler is made anew" in caplog.text


@pytest.mark.parametrize("error", [TinsmithError("the service is gone"), APIStatusError("no", status_code=500)])
def test_an_answerer_that_fails_is_named(error: Exception) -> None:
    match = r"step\(\), turn 1: TinsmithError: answerer_model tinsmith-tiny: (the service is gone|no)"
    questions = ["Is it a dog?"] + ["Is it a cow?"] * 5
    with pytest.raises(EnvError, match=match):
        played(game("cat", answering(_failing_second(error))), asking(*questions))
    dropped = played(game("cat", answering(_failing_second(error))), asking(*questions), ErrorPolicy("drop", 0, 1))
    assert (dropped.trajectories, len(dropped.errors)) == ([], 1)
    again = played(
        game("cat", answering(_failing_second(error))),
        asking(*questions, "Is it a cat?"),
        ErrorPolicy("retry"),
        max_turns=3,
    )
    assert (len(again.trajectories), len(again.errors)) == (1, 1)


def _failing_second(error: Exception) -> Any:
    class Failing(Service):
        def create_sampling_client(self, model_path: str | None = None, base_model: str | None = None) -> Any:
            sampler = super().create_sampling_client(model_path, base_model)
            sample, count = sampler.sample, iter(range(100))

            async def failing(*args: Any, **kwargs: Any) -> Any:
                if next(count) == 1:
                    raise error
                return await sample(*args, **kwargs)

            sampler.sample = failing  # type: ignore[method-assign]
            return sampler

    return Failing()


# -- simple askers ----------------------------------------------------------------------------------------------------


def come_to(asker: Callable[[Random], Any], games: int = 5) -> dict[str, float]:
    rng = Random(0)
    return measured((TwentyQuestionsEnv(secret, RuleAnswerer()), asker(rng)) for secret in [*THINGS] * games)


def test_what_simple_askers_come_to() -> None:
    # A question of 60 names the secret: found within 20 with 1 - (59/60)^20.
    assert come_to(askers.any_question)["found"] == pytest.approx(1 - (59 / 60) ** 20, abs=0.06)
    assert come_to(askers.one_thing)["found"] == pytest.approx(1 / 54, abs=0.03)
    first = come_to(askers.category_first)
    # 20/6 questions for the category, then 5 for the thing.
    assert first["questions"] == pytest.approx(20 / 6 + 5, abs=0.6)
    assert (first["found"], first["wasted"]) == (1.0, 0.0)
    assert first["reward"] > come_to(askers.any_question)["reward"] > come_to(askers.one_thing)["reward"]
