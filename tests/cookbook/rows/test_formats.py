"""Rows in the formats that people have: what each key means is honoured, refused by name, or told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cookbook.renderers.formats import byte_tokenizer
from tinsmith.cookbook.renderers import get_renderer
from tinsmith.cookbook.rows.row_sequence import as_rows
from tinsmith.cookbook.supervised import Batches, check_row, conversation_to_datum, load_rows, row_to_datums
from tinsmith.types.datum import Datum
from tinsmith.types.errors import UserError

TOKENIZER = byte_tokenizer("qwen3", "qwen3")
RENDERER = get_renderer("qwen3_instruct", TOKENIZER)
Q = {"role": "user", "content": "ask"}
A = {"role": "assistant", "content": "say"}
BAD = {"role": "assistant", "content": "BAD"}
TOOL = {"name": "find", "description": "finds", "parameters": {"type": "object", "properties": {}}}
CALL = {"name": "find", "arguments": '{"order": "NB-1"}'}
CALLED = {"role": "assistant", "content": "", "tool_calls": [{"function": CALL | {"arguments": {"order": "NB-1"}}}]}


def spelled(datum: Datum) -> tuple[str, str]:
    """Return the whole text of a datum, and what of it is learned."""
    inputs = datum.loss_fn_inputs
    targets, weights = inputs["target_tokens"].tolist(), inputs["weights"].tolist()
    learned = [token for token, weight in zip(targets, weights, strict=True) if weight]
    return str(TOKENIZER.decode([*datum.model_input.to_ints(), targets[-1]])), str(TOKENIZER.decode(learned))


def of_row(row: dict[str, Any], what: str = "all_assistant_messages") -> tuple[str, str]:
    (datum,) = row_to_datums(check_row(row, RENDERER, what), RENDERER, TOKENIZER, train_on_what=what)
    return spelled(datum)


def load(folder: Path, *rows: dict[str, Any], **options: Any) -> Any:
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_rows(str(path), 0, RENDERER, "all_assistant_messages", **options)


# -- masks ------------------------------------------------------------------------------------------------------------


@pytest.mark.row(8)
@pytest.mark.parametrize("mask", [{"weight": 0}, {"weight": 0.0}, {"train": False}, {"training": False}, {"loss": 0}])
def test_a_message_that_its_data_mask_is_read_and_not_learned(mask: dict[str, Any]) -> None:
    row = {"messages": [Q, {**BAD, **mask}, Q, {**A, "weight": 1}]}
    whole, learned = of_row(row)
    assert whole == of_row({"messages": [Q, BAD, Q, A]})[0]
    assert learned == "say<|im_end|>"


def test_a_mask_is_honoured_wherever_a_message_is_rendered() -> None:
    messages = [Q, {**BAD, "weight": 0}, Q, A]
    assert spelled(conversation_to_datum(messages, RENDERER))[1] == "say<|im_end|>"
    (batch,) = Batches([{"messages": messages}], RENDERER, TOKENIZER, batch_size=1).get(0).datums
    assert spelled(batch)[1] == "say<|im_end|>"
    # A format that forgets earlier thinking makes an example for each answer that is learned.
    thinking = get_renderer("qwen3", TOKENIZER)
    masked = thinking.build_supervised_examples(messages)
    assert masked == thinking.build_supervised_examples([Q, BAD, Q, A], "last_assistant_message")


def test_a_flag_can_choose_what_is_learned_beside_the_answers() -> None:
    assert of_row({"messages": [{**Q, "train": True}, {**A, "train": False}]})[1] == "ask<|im_end|>"
    assert of_row({"messages": [{**Q, "train": False}, {**A, "train": True}]}, "customized")[1] == "say<|im_end|>"


@pytest.mark.parametrize(
    ("message", "what", "expected"),
    [
        ({**A, "weight": "0"}, "all_assistant_messages", "messages[1].weight: got '0', expected 0 or 1"),
        ({**A, "weight": 0.5}, "all_assistant_messages", "messages[1].weight: got 0.5, expected 0 or 1"),
        ({**A, "weight": True}, "all_assistant_messages", "messages[1].weight: got True, expected 0 or 1"),
        ({**A, "weight": float("nan")}, "all_assistant_messages", "messages[1].weight: got nan, expected 0 or 1"),
        ({**A, "train": "yes"}, "all_assistant_messages", "messages[1].train: got 'yes', expected true or false"),
        ({**A, "weight": 0, "train": True}, "all_assistant_messages", "messages[1].train: got True, expected the same"),
        ({**A, "weight": 0}, "all_tokens", "messages[1].weight: got 0, expected none, or 1, with train_on_what=all_t"),
        ({**Q, "weight": 1}, "last_assistant_message", "messages[1].weight: got 1, expected none, or 0, with train_on"),
        ({**A, "mask": 1}, "all_assistant_messages", "messages[1].mask: got 1, expected none: say weight"),
        ({**A, "training_detail": [{}]}, "all_assistant_messages", "messages[1].training_detail: got [{}], expected n"),
        (
            {"role": "assistant", "content": [{"type": "text", "text": "x", "train": False}]},
            "all_assistant_messages",
            "messages[1].content[0].train: got False, expected none: a message is learned as a whole",
        ),
    ],
)
def test_a_mask_that_cannot_be_honoured_is_refused(message: dict[str, Any], what: str, expected: str) -> None:
    with pytest.raises(UserError) as error:
        check_row({"messages": [Q, message, Q, A]}, RENDERER, what)
    assert str(error.value).startswith(expected)


def test_of_a_completion_only_what_has_no_weight_0_is_learned() -> None:
    assert of_row({"prompt": "ask", "completion": [{**BAD, "weight": 0}, Q, A]})[1] == "say<|im_end|>"
    with pytest.raises(
        UserError, match="completion: got 'no message of the assistant', expected one to learn from, wh"
    ):
        check_row({"prompt": "ask", "completion": [{**A, "weight": 0}]}, RENDERER, "all_assistant_messages")
    with pytest.raises(UserError, match=r"prompt\[0\]\.weight: got 1, expected 0 or none: a prompt is never learned"):
        check_row({"prompt": [{**A, "weight": 1}, Q], "completion": "x"}, RENDERER, "all_assistant_messages")


# -- OpenAI -----------------------------------------------------------------------------------------------------------


@pytest.mark.row(8)
def test_arguments_that_are_json_texts_are_written_once() -> None:
    called = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": CALL}]}
    row = {"messages": [Q, called, {"role": "tool", "tool_call_id": "1", "content": "found"}, A], "tools": [TOOL]}
    for name in ("qwen3_instruct", "qwen2_5"):
        renderer = get_renderer(name, TOKENIZER)
        (datum,) = row_to_datums(check_row(row, renderer), renderer, TOKENIZER)
        assert '{"name": "find", "arguments": {"order": "NB-1"}}' in spelled(datum)[1]
    assert '"arguments": {"order": "NB-1"}}' in spelled(conversation_to_datum([Q, called], RENDERER))[1]
    nothing = {**called, "tool_calls": [{"function": {"name": "find", "arguments": ""}}]}
    assert '{"name": "find", "arguments": {}}' in of_row({"messages": [Q, nothing]})[1]


def test_functions_and_their_calls_are_tools_and_theirs() -> None:
    older = [Q, {"role": "assistant", "content": None, "function_call": CALL}]
    older += [{"role": "function", "name": "find", "content": "found"}, A]
    newer = [Q, CALLED, {"role": "tool", "name": "find", "content": "found"}, A]
    tools = [{"type": "function", "function": TOOL}]
    expected = of_row({"messages": newer, "tools": tools})
    assert of_row({"messages": older, "functions": [TOOL]}) == expected
    assert of_row({"messages": older, "tools": json.dumps([TOOL])}) == expected
    flat = [Q, {"role": "assistant", "content": "", "tool_calls": [CALL]}, *newer[2:]]
    assert of_row({"messages": flat, "tools": tools}) == expected


@pytest.mark.parametrize(
    ("row", "same"),
    [
        ({"system": "be brief", "prompt": "ask", "completion": "say"}, None),
        ({"system_prompt": "be brief", "messages": [Q, A]}, None),
        ({"system": "be brief", "messages": [{"role": "system", "content": "be brief"}, Q, A]}, None),
        ({"messages": [Q, {"role": "assistant", "content": None, "refusal": "say"}]}, {"messages": [Q, A]}),
        (
            {"messages": [Q, {"role": "assistant", "content": [{"type": "output_text", "text": "say"}]}]},
            {"messages": [Q, A]},
        ),
        ({"messages": [Q, A], "prompt": "ask", "tools": [], "images": []}, {"messages": [Q, A]}),
    ],
)
def test_what_stands_in_another_place_is_said(row: dict[str, Any], same: dict[str, Any] | None) -> None:
    system = {"messages": [{"role": "system", "content": "be brief"}, Q, A]}
    assert of_row(row) == of_row(same or system)


def test_thinking_goes_by_all_of_its_names() -> None:
    renderer = get_renderer("qwen3", TOKENIZER)
    rows = [{"messages": [Q, {**A, name: "hm"}]} for name in ("reasoning_content", "reasoning", "thinking")]
    first, second, third = (row_to_datums(row, renderer, TOKENIZER)[0] for row in rows)
    assert spelled(first) == spelled(second) == spelled(third)
    assert "hm" in spelled(first)[1]


# -- ShareGPT, Alpaca, axolotl ----------------------------------------------------------------------------------------

texts = st.text("abcé<>| \n", min_size=1, max_size=8).filter(str.strip)


@given(pairs=st.lists(st.tuples(texts, texts, st.booleans()), min_size=1, max_size=4), system=st.none() | texts)
def test_any_row_of_sharegpt_is_the_conversation_that_it_says(
    pairs: list[tuple[str, str, bool]], system: str | None
) -> None:
    turns: list[dict[str, Any]] = []
    messages: list[dict[str, Any]] = [] if system is None else [{"role": "system", "content": system}]
    for asked, said, learned in pairs:
        turns += [{"from": "human", "value": asked}, {"from": "gpt", "value": said, "weight": int(learned)}]
        messages += [{"role": "user", "content": asked}]
        messages += [{"role": "assistant", "content": said, "weight": int(learned)}]
    row = {"conversations": turns, **({} if system is None else {"system": system})}
    assert of_row(row) == of_row({"messages": messages})


@pytest.mark.row(8)
def test_calls_and_results_of_sharegpt() -> None:
    turns = [{"from": "human", "value": "ask"}, {"from": "function_call", "value": json.dumps(CALL)}]
    turns += [{"from": "observation", "value": "found"}, {"from": "gpt", "value": "say"}]
    expected = of_row({"messages": [Q, CALLED, {"role": "tool", "content": "found"}, A], "tools": [TOOL]})
    assert of_row({"conversations": turns, "tools": json.dumps([TOOL])}) == expected
    assert of_row({"messages": turns, "tools": [TOOL]}) == expected


@pytest.mark.row(8)
@pytest.mark.parametrize(
    ("row", "messages"),
    [
        ({"instruction": "ask", "input": "", "output": "say"}, [Q, A]),
        ({"instruction": "add", "input": "1 2", "output": "3", "text": "### add\n1 2\n### 3"}, None),
        ({"instruction": "add", "context": "1 2", "response": "3", "category": "sums"}, None),
        (
            {"instruction": "ask", "output": "say", "system": "s", "history": [["q", "a"]]},
            [
                {"role": "system", "content": "s"},
                *({"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}),
                *(Q, A),
            ],
        ),
    ],
)
def test_rows_of_alpaca(row: dict[str, Any], messages: list[dict[str, Any]] | None) -> None:
    added = [{"role": "user", "content": "add\n1 2"}, {"role": "assistant", "content": "3"}]
    assert of_row(row) == of_row({"messages": messages or added})


def test_segments_are_learned_as_their_labels_say_with_their_own_control_tokens() -> None:
    parts = [{"label": False, "text": "<|im_start|>user\nask<|im_end|>\n"}, {"label": True, "text": "say<|im_end|>"}]
    (datum,) = row_to_datums(check_row({"segments": parts}, RENDERER), RENDERER, TOKENIZER)
    assert spelled(datum) == ("<|im_start|>user\nask<|im_end|>\nsay<|im_end|>", "say<|im_end|>")
    assert datum.model_input.to_ints()[0] == TOKENIZER.convert_tokens_to_ids("<|im_start|>")
    with pytest.raises(UserError, match=r"segments\[1\]\.label: got 1, expected true or false"):
        check_row({"segments": [parts[0], {"label": 1, "text": "x"}]})


def test_all_sources_convert_and_the_header_says_it_once(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "ask"}, {"from": "gpt", "value": "say"}]
    rows = [{"id": number, "conversations": turns, "source": "x"} for number in range(3)]
    alpaca = {"instruction": "ask", "output": "say"}
    found = load(tmp_path, *rows, alpaca)
    told = {"converted": "3 rows of ShareGPT, 1 row of Alpaca", "keys not used": "id, source"}
    assert found.remarks() == told
    train, kept = as_rows(found).split(1, 0)
    assert train.remarks() == kept.remarks() == told
    # Reading a row again counts nothing.
    assert [row["messages"] for row in found] == [[Q, A]] * 4
    assert found.remarks() == told
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    parquet = load_rows(str(tmp_path / "a.parquet"), 0, RENDERER)
    assert [row["messages"] for row in parquet] == [[Q, A]] * 3  # type: ignore[union-attr]
    (tmp_path / "a.csv").write_text('instruction,output,id\nask,say,1\n"add\n2",3,2\n')
    table = load_rows(str(tmp_path / "a.csv"), 0, RENDERER)
    assert [len(row["messages"]) for row in table] == [2, 2]  # type: ignore[union-attr]
    mixed = load_rows(f"{tmp_path / 'a.csv'}:1,{tmp_path / 'a.parquet'}:1", 0, RENDERER)
    assert as_rows(mixed).remarks()["converted"] == "2 rows of Alpaca; 3 rows of ShareGPT"  # type: ignore[arg-type]


# -- everything else --------------------------------------------------------------------------------------------------

# Keys that people have, with a value that says something.
MESSAGE_KEYS: dict[str, Any] = {
    **{
        "name": "bob",
        "refusal": "no",
        "reasoning": "hm",
        "reasoning_content": "hm",
        "thinking": "hm",
        "audio": {"id": 1},
    },
    **{"function_call": CALL, "tool_calls": [CALL], "weight": 0, "train": False, "training": False, "loss": False},
    **{
        "mask": 0,
        "loss_mask": [0],
        "training_detail": [{"train": False}],
        "label": False,
        "images": ["x"],
        "prefix": True,
    },
    **{"tools": [TOOL], "functions": [TOOL], "text": "more", "value": "more", "channel": "final", "recipient": "all"},
    **{"reasoning_details": [{"text": "hm"}], "tokens": [1, 2], "id": "7", "annotations": [1], "trainable": False},
}
ROW_KEYS: dict[str, Any] = {
    **{
        "tools": [TOOL],
        "functions": [TOOL],
        "system": "s",
        "system_prompt": "s",
        "system_message": "s",
        "documents": ["x"],
    },
    **{
        "prompt": "p",
        "completion": "c",
        "text": "t",
        "conversations": [{"from": "gpt", "value": "x"}],
        "segments": [1],
    },
    **{"instruction": "i", "input": "i", "output": "o", "response": "o", "history": [["q", "a"]], "chosen": "c"},
    **{"rejected": "r", "label": True, "kto_tag": True, "weight": 0.5, "loss_weight": 2, "images": ["x"], "audio": "x"},
    **{"input_ids": [1], "labels": [1], "completion_mask": [1], "assistant_masks": [1], "margin": 1.0, "mask": [1]},
    **{"chat_template_kwargs": {"a": 1}, "reasoning_content": "hm", "enable_thinking": True, "completions": ["x"]},
    **{
        "parallel_tool_calls": False,
        "tool_choice": "auto",
        "id": "7",
        "source": "x",
        "score": 0.5,
        "metadata": {"a": 1},
    },
}


def outcome(row: dict[str, Any], key: str, folder: Path) -> str:
    """Return what becomes of a key: refused by its name, told, or honoured."""
    renderer = get_renderer("qwen3", TOKENIZER)
    try:
        found = load_rows(str(_written(folder, row)), 0, renderer, "all_assistant_messages")
    except UserError as error:
        assert key in str(error), error
        return "refused"
    if key in str(as_rows(found).remarks().get("keys not used", "")):  # type: ignore[arg-type]
        return "told"
    plain = [{**Q}, {**A}]
    examples = [row_to_datums(one, renderer, TOKENIZER) for one in (found[0], {"messages": plain})]  # type: ignore[index]
    assert [spelled(d) for d in examples[0]] != [spelled(d) for d in examples[1]], f"{key} is ignored"
    return "honoured"


def _written(folder: Path, row: dict[str, Any]) -> Path:
    path = folder / "row.jsonl"
    path.write_text(json.dumps(row))
    return path


@pytest.mark.parametrize("key", MESSAGE_KEYS)
def test_no_key_of_a_message_vanishes(key: str, tmp_path: Path) -> None:
    row = {"messages": [Q, {**A, key: MESSAGE_KEYS[key]}]}
    assert (outcome(row, key, tmp_path) == "told") == (key in ("id", "annotations"))


@pytest.mark.parametrize("key", ROW_KEYS)
def test_no_key_of_a_row_vanishes(key: str, tmp_path: Path) -> None:
    told = ("parallel_tool_calls", "tool_choice", "id", "source", "score", "metadata")
    assert (outcome({"messages": [Q, A], key: ROW_KEYS[key]}, key, tmp_path) == "told") == (key in told)


def test_a_renderer_refuses_what_only_rows_may_say() -> None:
    for key, value in (("function_call", CALL), ("refusal", "no"), ("reasoning", "hm")):
        with pytest.raises(UserError, match=rf"messages\[1\]\.{key}: got .* expected none here: data files"):
            RENDERER.build_supervised_example([Q, {**A, key: value}])


def test_texts_that_repeat_a_conversation_are_no_second_row() -> None:
    marv = [{"role": "system", "content": "Marv is a bot."}, Q, A]
    assert of_row({"messages": marv, "prompt": "Marv is a bot.", "prompt_id": "x"}) == of_row({"messages": marv})
    assert of_row({"messages": [Q, A], "text": "user: ask\nassistant: say"}) == of_row({"messages": [Q, A]})
    ultra = {"messages": [Q, A], "prompt": "ask", "chosen": [Q, A], "rejected": [Q, BAD], "score_chosen": 9.0}
    assert of_row(ultra) == of_row({"messages": [Q, A]})
    with pytest.raises(
        UserError, match=r"rejected: got .* expected none: the recipe preference learns from comparisons"
    ):
        check_row({"messages": [Q, A], "rejected": [Q, BAD]})
