"""Agents as environments: each call is an action by the sampled ids, and whatever the agent does, the group goes on."""

from __future__ import annotations

import asyncio
import json
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import pytest

from tests.cookbook.renderers.families import LLAMA31, QWEN3_INSTRUCT, QWEN25, TINY, Format
from tests.cookbook.rl.scripted import tiny_renderer
from tests.cookbook.rl.speaking import call, calls, play, turn_tokens
from tinsmith.cookbook.renderers import Renderer
from tinsmith.cookbook.rl import EndReason, EnvError, Trajectory
from tinsmith.cookbook.rl.agents import chat_objects
from tinsmith.cookbook.rl.agents.agent_env import AgentEnv
from tinsmith.cookbook.rl.learning.examples import examples_of
from tinsmith.cookbook.rl.tools.tool import tool
from tinsmith.cookbook.rl.tools.tool_env import EpisodeGrade


@tool
def price(item: str) -> str:
    """Price of an item."""
    return f"{item}: 4"


TOOLS = [price.spec]


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def answer(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def episode(renderer: Renderer, agent: Any, *says: Any, **limits: Any) -> tuple[Trajectory, list[str]]:
    trajectory, policy = play(renderer, lambda: AgentEnv(renderer, agent), says, **limits)
    return trajectory, policy.texts()


async def shopper(client: Any) -> float:
    """The loop that agent programs are, as it is written for the `openai` package."""
    messages: list[Any] = [user("What is the price of a cup?")]
    while True:
        response = await client.chat.completions.create(model="gpt", messages=messages, tools=TOOLS, temperature=1.0)
        message = response.choices[0].message
        messages.append(message)
        if not message.tool_calls:
            return float("4" in (message.content or ""))
        for made in message.tool_calls:
            result = price(**json.loads(made.function.arguments))
            messages.append({"role": "tool", "tool_call_id": made.id, "content": result})


@pytest.mark.row(98)
@pytest.mark.parametrize("fmt", [TINY, QWEN25, QWEN3_INSTRUCT, LLAMA31], ids=str)
def test_the_calls_of_an_agent_become_one_sequence_of_sampled_ids(fmt: Format) -> None:
    renderer, _ = fmt.renderer_and_tokenizer()
    says = [calls(call("price", item="cup")), answer("4 coins")]
    trajectory, read = episode(renderer, shopper, *says)
    assert (trajectory.reward, trajectory.end_reason) == (1.0, EndReason.DONE)
    assert "Price of an item." in read[0]
    assert "cup: 4" in read[1]
    assert [step.ac.tokens for step in trajectory.transitions] == [turn_tokens(renderer, said) for said in says]
    (example,) = examples_of(trajectory, [1.0] * len(trajectory.transitions))
    assert example.trained_tokens == trajectory.action_tokens


# Spelled otherwise than the renderer would spell it, as models do.
ODD_CALL = '<tool_call>{"arguments":{"item":"cup"},  "name":"price"}</tool_call><|end|>'


@pytest.mark.parametrize(
    "sent_back",
    [
        lambda message: message,
        lambda message: message.model_dump(),
        lambda message: message.model_dump(exclude_none=True),
        lambda message: {"role": "assistant", "content": message.content or "", "tool_calls": _plain(message)},
        lambda message: {"role": "assistant", "content": [{"type": "text", "text": ""}], "tool_calls": _plain(message)},
    ],
)
def test_in_whatever_form_a_turn_is_sent_back_its_ids_stay(sent_back: Any) -> None:
    async def agent(client: Any) -> float:
        messages = [user("price?")]
        first = (await client.chat.completions.create(messages=messages, tools=TOOLS)).choices[0].message
        messages += [sent_back(first), {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": "4"}]
        await client.chat.completions.create(messages=messages, tools=TOOLS)
        return 1.0

    trajectory, _ = episode(tiny_renderer(), agent, ODD_CALL, answer("4"))
    assert len(list(examples_of(trajectory, [1.0] * len(trajectory.transitions)))) == 1


def _plain(message: Any) -> list[Any]:
    return [made.model_dump() for made in message.tool_calls]


def test_what_an_agent_changes_is_read_as_it_changed_it() -> None:
    async def agent(client: Any) -> float:
        said = (await client.chat.completions.create(messages=[user("hello")])).choices[0].message.content
        await client.chat.completions.create(messages=[user("hello"), answer(said.upper()), user("again")])
        return 1.0

    trajectory, read = episode(tiny_renderer(), agent, answer("hi there"), answer("hi"))
    assert "HI THERE" in read[1]
    assert "hi there" not in read[1]
    assert len(list(examples_of(trajectory, [1.0] * len(trajectory.transitions)))) == 2


def test_of_two_turns_that_say_the_same_each_conversation_gets_its_own() -> None:
    # One text, two spellings in ids: the second is cut off, so it has no end marker.
    renderer = tiny_renderer()
    whole = turn_tokens(renderer, answer("yes"))
    cut = whole[:-1]

    async def agent(client: Any) -> float:
        asked = {name: [user(name)] for name in ("a", "b")}
        for messages in asked.values():
            reply = await client.chat.completions.create(
                messages=messages, max_tokens=3 if messages == [user("b")] else None
            )
            messages += [reply.choices[0].message, user("sure?")]
        for messages in asked.values():
            await client.chat.completions.create(messages=messages)
        return 1.0

    trajectory, _ = episode(renderer, agent, whole, whole, answer("y"), answer("y"))
    said = [step.ac.tokens for step in trajectory.transitions]
    assert said[:2] == [whole, cut]
    for first, second in ((0, 2), (1, 3)):
        begun = trajectory.transitions[first]
        assert trajectory.transitions[second].ob.to_ints()[: begun.ob.length + len(said[first])] == [
            *begun.ob.to_ints(),
            *said[first],
        ]


def test_the_answer_has_what_programs_look_for() -> None:
    seen: list[Any] = []

    async def agent(client: Any) -> EpisodeGrade:
        create = client.chat.completions.create
        seen.append(await create(model="m", messages=[user("x")], tools=TOOLS))
        seen.append(await create(model="m", messages=[user("x")], max_completion_tokens=2))
        seen.append(await create(model="m", messages=[user("x")], tools=TOOLS))
        return EpisodeGrade(0.5, {"asked": 3.0})

    broken = '<tool_call>{"name": <|end|>'
    trajectory, _ = episode(tiny_renderer(), agent, calls(call("price", item="ü")), answer("hello"), broken)
    called, cut, unread = seen
    choice = called.choices[0]
    assert (choice.finish_reason, choice.message.content, choice.index) == ("tool_calls", None, 0)
    assert choice.message.tool_calls[0].function.name == "price"
    assert json.loads(choice.message.tool_calls[0].function.arguments) == {"item": "ü"}
    assert (called.model, called.object) == ("m", "chat.completion")
    assert called.usage.prompt_tokens == trajectory.transitions[0].ob.length
    assert called.usage.total_tokens == called.usage.prompt_tokens + len(trajectory.transitions[0].ac.tokens)
    assert (cut.choices[0].finish_reason, cut.choices[0].message.content) == ("length", "he")
    assert len(trajectory.transitions[1].ac.tokens) == 2
    assert unread.choices[0].finish_reason == "stop"
    assert unread.choices[0].message.content.startswith('<tool_call>{"name": ')
    last = trajectory.transitions[-1].metrics
    assert (last["unparsed_calls"], last["asked"], trajectory.reward) == (1.0, 3.0, 0.5)
    assert len({one.id for one in seen}) == 3


def test_where_the_openai_package_is_installed_the_answers_are_its_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    class Theirs(chat_objects.ChatCompletion):
        """Stands for the class that frameworks ask for by `isinstance`."""

    for name in ("openai", "openai.types", "openai.types.chat"):
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        module.ChatCompletion = Theirs  # pyright: ignore[reportAttributeAccessIssue]
        monkeypatch.setitem(sys.modules, name, module)
    chat_objects._class_of_openai.cache_clear()

    async def agent(client: Any) -> float:
        messages: list[Any] = [user("x")]
        reply = await client.chat.completions.create(messages=messages)
        messages += [reply.choices[0].message, user("y")]
        await client.chat.completions.create(messages=messages)
        return float(isinstance(reply, Theirs))

    try:
        trajectory, _ = episode(tiny_renderer(), agent, answer("x"), answer("y"))
    finally:
        chat_objects._class_of_openai.cache_clear()
    assert trajectory.reward == 1.0
    assert len(list(examples_of(trajectory, [1.0] * len(trajectory.transitions)))) == 1


def test_calls_at_the_same_time_are_answered_one_after_the_other() -> None:
    async def agent(client: Any) -> float:
        asked = [client.chat.completions.create(messages=[user(name)]) for name in "abc"]
        said = [reply.choices[0].message.content for reply in await asyncio.gather(*asked)]
        return float(said == ["one", "two", "three"])

    trajectory, read = episode(tiny_renderer(), agent, answer("one"), answer("two"), answer("three"))
    assert trajectory.reward == 1.0
    assert [text.split("<|end|>")[0][-1] for text in read] == ["a", "b", "c"]


class NotGiven:
    """Stands for the sentinel of the `openai` package, which is told by its name."""


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"temperature": 0.2}, "temperature: got 0.2, expected none, or 1, that of the run"),
        ({"n": 2}, "n: got 2, expected 1: one call is one action"),
        ({"stream": True}, "stream: got True, expected false"),
        ({"top_p": 0.9}, "top_p: got 0.9, expected 1.0"),
        ({"tool_choice": "required"}, "tool_choice: got 'required', expected \"auto\""),
        ({"response_format": {"type": "json_object"}}, "response_format: got .*, expected"),
        ({"stop": ["x"]}, "stop: got .*, expected none: a policy takes model, messages, tools"),
        ({"seed": 1}, "seed: got 1, expected none"),
        ({"max_tokens": 0}, "max_tokens: got 0, expected a number of at least 1"),
        ({"messages": "hello"}, "messages: got 'hello', expected a list of messages"),
        ({"messages": [3]}, "messages.0.: got 3, expected an object"),
        ({"messages": [{"role": "narrator", "content": "x"}]}, "messages.0..role: got 'narrator'"),
        ({"messages": []}, "messages: got .*, expected at least one message"),
        ({"tools": [{"type": "web_search"}]}, "tools.0..type: got 'web_search'"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name_where_it_is_asked(given: Any, message: str) -> None:
    async def agent(client: Any) -> float:
        await client.chat.completions.create(**{"messages": [user("x")], **given})
        return 1.0

    with pytest.raises(EnvError, match=message):
        episode(tiny_renderer(), agent, answer("x"))


def test_arguments_that_ask_for_what_happens_anyway_are_taken() -> None:
    async def agent(client: Any) -> float:
        with pytest.raises(AttributeError, match=r"client.responses: this client of an environment has"):
            _ = client.responses
        with pytest.raises(AttributeError, match=r"client.chat.completions.parse: .* create alone"):
            _ = client.chat.completions.parse
        await client.chat.completions.create(
            model="m", messages=[user("x")], n=1, stream=False, top_p=1, tool_choice="auto", tools=None, stop=None,
            seed=NotGiven(), temperature=NotGiven(), max_tokens=NotGiven(), response_format={"type": "text"},
            extra_headers={"User-Agent": "x"}, extra_query=None, store=False, user="me",
        )  # fmt: skip
        assert "openai.com" not in str(client.base_url)
        return 1.0

    assert episode(tiny_renderer(), agent, answer("x"))[0].reward == 1.0


@pytest.mark.parametrize(
    ("when", "raised", "message"),
    [
        (0, ValueError("no luck"), r"AgentEnv.initial_observation\(\): ValueError: no luck"),
        (1, KeyError("k"), r"AgentEnv.step\(\), turn 0: KeyError: 'k'"),
        (1, SystemExit(3), r"RuntimeError: the agent called sys.exit\(3\)"),
        (1, asyncio.CancelledError(), "RuntimeError: the agent was cancelled from inside"),
        (1, TimeoutError("its own"), "TimeoutError: its own"),
    ],
)
def test_an_agent_that_raises_is_an_environment_that_fails(when: int, raised: BaseException, message: str) -> None:
    async def agent(client: Any) -> float:
        for _ in range(when):
            await client.chat.completions.create(messages=[user("x")])
        raise raised

    with pytest.raises(EnvError, match=message):
        episode(tiny_renderer(), agent, answer("x"), max_seconds=60)


def test_an_agent_that_asks_nothing_or_gives_no_reward_is_told_so() -> None:
    async def silent(client: Any) -> float:
        return 1.0

    async def worthless(client: Any) -> Any:
        await client.chat.completions.create(messages=[user("x")])

    with pytest.raises(EnvError, match="returned without a call of its client; there is nothing to train"):
        episode(tiny_renderer(), silent)
    with pytest.raises(EnvError, match="reward: got None, expected a number"):
        episode(tiny_renderer(), worthless, answer("x"))


@pytest.mark.parametrize(
    ("limits", "reason"),
    [({"max_turns": 2}, "max_turns"), ({"context": 200}, "context"), ({"max_seconds": 2.0}, "max_seconds")],
)
def test_an_agent_that_a_limit_ends_is_cancelled_and_may_clean_up(limits: Any, reason: str) -> None:
    cleaned: list[str] = []

    async def agent(client: Any) -> float:
        messages = [user("go on")]
        try:
            while True:
                reply = await client.chat.completions.create(messages=messages)
                messages += [reply.choices[0].message, user("go on")]
                await asyncio.sleep(60 if "max_seconds" in limits and len(messages) > 3 else 0)
        finally:
            await asyncio.sleep(0)
            cleaned.append("done")

    trajectory, _ = episode(tiny_renderer(), agent, *[answer("on and on")] * 50, **limits)
    assert trajectory.end_reason == reason
    assert trajectory.transitions
    assert cleaned == ["done"]


def test_an_agent_that_stops_waiting_is_not_waited_for() -> None:
    async def agent(client: Any) -> float:
        asked = asyncio.ensure_future(client.chat.completions.create(messages=[user("first")]))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        asked.cancel()
        reply = await client.chat.completions.create(messages=[user("second")])
        return float(reply.choices[0].message.content == "two")

    trajectory, read = episode(tiny_renderer(), agent, answer("one"), answer("two"))
    assert ["first" in read[0], "second" in read[1]] == [True, True]
    assert trajectory.reward == 1.0


def test_a_task_that_outlives_its_agent_gets_no_answer() -> None:
    renderer = tiny_renderer()
    late: list[asyncio.Task[Any]] = []

    async def agent(client: Any) -> float:
        await client.chat.completions.create(messages=[user("x")])

        async def later() -> None:
            await asyncio.sleep(0.01)
            await client.chat.completions.create(messages=[user("y")])

        late.append(asyncio.ensure_future(later()))
        return 1.0

    async def play_on() -> None:
        env = AgentEnv(renderer, agent)
        await env.initial_observation()
        result = await env.step(turn_tokens(renderer, answer("x")))
        assert (result.reward, result.episode_done) == (1.0, True)
        with pytest.raises(RuntimeError, match="client: got a call after the episode had ended, expected none"):
            await late[0]
        await env.close()

    asyncio.run(play_on())
