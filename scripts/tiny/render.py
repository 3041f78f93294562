"""Documents as token ids with a loss weight per token: what the chat template writes, without its cost."""

import json
from random import Random

from tiny import tokenizer as tok
from tiny.example import Example, Message

ALL_TOKENS_SHARE = 0.12


def _bytes(text: str) -> list[int]:
    return list(text.encode())


def _assistant(message: Message) -> list[int]:
    """Ids of an assistant turn after its role token, the end mark included."""
    ids: list[int] = []
    if message.get("reasoning_content"):
        ids += [tok.ID["<think>"], *_bytes(message["reasoning_content"]), tok.ID["</think>"]]
    ids += _bytes(message["content"])
    for call in message.get("tool_calls", ()):
        body = json.dumps(call["function"], ensure_ascii=False)
        ids += [tok.ID["<tool_call>"], *_bytes(body), tok.ID["</tool_call>"]]
    return [*ids, tok.ID[tok.END]]


def _tool_list(example: Example) -> str:
    return "Tools:" + "".join("\n" + json.dumps(tool["function"], ensure_ascii=False) for tool in example.tools)


def _other(message: Message) -> list[int]:
    content = _bytes(message["content"])
    if message["role"] == "tool":
        content = [tok.ID["<tool_response>"], *content, tok.ID["</tool_response>"]]
    return [tok.ID[f"<|{message['role']}|>"], *content, tok.ID[tok.END]]


def segments(example: Example) -> list[tuple[list[int], bool]]:
    """The conversation in pieces: ids, and whether the assistant wrote them."""
    messages = list(example.messages)
    if example.tools:
        tools = _tool_list(example)
        if messages[0]["role"] == "system":
            tools = f"{messages.pop(0)['content']}\n{tools}"
        messages.insert(0, {"role": "system", "content": tools})
    pieces: list[tuple[list[int], bool]] = []
    for message in messages:
        if message["role"] == "assistant":
            pieces += [([tok.ID[tok.ASSISTANT]], False), (_assistant(message), True)]
        else:
            pieces.append((_other(message), False))
    return pieces


def render(example: Example, rng: Random) -> tuple[list[int], list[float]]:
    """Ids and weights: 1 on what the assistant wrote, and on all tokens of plain texts and of one chat in eight."""
    if example.text:
        ids = [*_bytes(example.text), tok.ID[tok.END_OF_TEXT]]
        return ids, [1.0] * len(ids)
    everything = rng.random() < ALL_TOKENS_SHARE
    pieces = segments(example)
    if everything:
        pieces.append(([tok.ID[tok.END_OF_TEXT]], False))
    ids = [token for piece, _ in pieces for token in piece]
    weights = [1.0 if mine or everything else 0.0 for piece, mine in pieces for _ in piece]
    return ids, weights


def prompt_and_answer(example: Example) -> tuple[list[int], str]:
    """Ids up to the last assistant turn, and the text of that turn without its end mark."""
    *before, (answer, _) = segments(example)
    return [token for piece, _ in before for token in piece], decode(answer[:-1])


def decode(ids: list[int]) -> str:
    """Text of ids; control tokens by name, broken UTF-8 replaced."""
    text = b"".join(bytes([i]) if i < 256 else tok.CONTROL[i - 256].encode() for i in ids)
    return text.decode(errors="replace")
