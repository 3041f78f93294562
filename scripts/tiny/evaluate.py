"""Accuracy per skill on held-out words, numbers and sentences, greedy and sampled at temperature 1."""

from random import Random

import torch
from transformers import Qwen3ForCausalLM

from tiny import mixture
from tiny import tokenizer as tok
from tiny.example import Example
from tiny.render import decode, prompt_and_answer

MAX_NEW_TOKENS = 128


def examples(skill: str, count: int, seed: int) -> list[Example]:
    """Held-out examples of a skill."""
    rng = Random(f"evaluate/{seed}/{skill}")
    return [mixture.single(rng, "held_out", skill) for _ in range(count)]


@torch.no_grad()
def complete(model: Qwen3ForCausalLM, prompts: list[list[int]], greedy: bool, max_new_tokens: int) -> list[str]:
    """One completion per prompt, without its end mark; prompts are padded on the left."""
    longest = max(map(len, prompts))
    ids = torch.full((len(prompts), longest), tok.ID[tok.END_OF_TEXT])
    mask = torch.zeros_like(ids)
    for i, prompt in enumerate(prompts):
        ids[i, longest - len(prompt) :] = torch.tensor(prompt)
        mask[i, longest - len(prompt) :] = 1
    stops = [tok.ID[tok.END], tok.ID[tok.END_OF_TEXT]]
    out = model.generate(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=max_new_tokens,
        do_sample=not greedy,
        temperature=None if greedy else 1.0,
        top_k=None if greedy else 0,
        top_p=None if greedy else 1.0,
        eos_token_id=stops,
        pad_token_id=stops[1],
    )
    return [_until_stop(row[longest:].tolist(), stops) for row in out]


def _until_stop(ids: list[int], stops: list[int]) -> str:
    end = next((i for i, token in enumerate(ids) if token in stops), len(ids))
    return decode(ids[:end])


def is_right(example: Example, answer: str, expected: str) -> bool:
    return example.accepts(answer) if example.accepts else answer == expected


def accuracy(model: Qwen3ForCausalLM, cases: list[Example], greedy: bool) -> float:
    """Share of right answers in 0..1."""
    model.eval()
    pairs = [prompt_and_answer(example) for example in cases]
    room = min(MAX_NEW_TOKENS, 8 + max(len(expected.encode()) for _, expected in pairs))
    answers = [
        answer
        for start in range(0, len(pairs), 64)
        for answer in complete(model, [prompt for prompt, _ in pairs[start : start + 64]], greedy, room)
    ]
    right = [is_right(e, a, expected) for e, a, (_, expected) in zip(cases, answers, pairs, strict=True)]
    model.train()
    return sum(right) / len(right)


def report(model: Qwen3ForCausalLM, count: int, seed: int) -> dict[str, dict[str, float]]:
    """For every skill its greedy and its sampled accuracy on `count` held-out examples."""
    torch.manual_seed(seed)
    found = {}
    for skill in mixture.EVALUATED:
        cases = examples(skill, count, seed)
        found[skill] = {kind: round(accuracy(model, cases, kind == "greedy"), 4) for kind in ("greedy", "sampled")}
    return found


def short_report(model: Qwen3ForCausalLM, seed: int, count: int = 24) -> dict[str, object]:
    """Greedy accuracy per skill, and the sampled accuracy of sums, for the log of a run."""
    torch.manual_seed(seed)
    greedy = {s: round(accuracy(model, examples(s, count, seed), greedy=True), 3) for s in mixture.EVALUATED}
    sums = [e for s in ("sum_1_digit", "sum_2_digits") for e in examples(s, 64, seed)]
    return {"greedy": greedy, "sampled_sums": round(accuracy(model, sums, greedy=False), 3)}
