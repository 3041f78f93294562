"""Preference pairs in their three forms, and how texts and conversations become datums."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.client.data import datum
from tests.support.checkpoints import checkpoint
from tests.support.fakes.fake_service import FakeService
from tinsmith import AdamParams, Datum, PreferencePair, RequestFailedError, ServiceClient, UserError, get_tokenizer
from tinsmith.client.tokenizer.tokenizer import Tokenizer
from tinsmith.client.training import batch_requests
from tinsmith.client.training.preference_pairs import read_batch, render
from tinsmith.models import path as shipped

LLAMA = get_tokenizer(str(checkpoint("llama")))
QWEN = get_tokenizer(str(checkpoint("qwen3")))
TINY = get_tokenizer(str(shipped()))

TEXTS = [
    {"prompt": "2+2=", "chosen": "4", "rejected": "5", "score": 7},
    {"prompt": "The sky is ", "chosen": "blue.", "rejected": "a lie."},
]
CHATS = [
    {
        "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        "chosen": [{"role": "assistant", "content": "Hello."}],
        "rejected": "Hello there, and welcome.",
    }
]


def rendered(rows: list[dict[str, Any]], tokenizer: Tokenizer) -> list[tuple[str, str]]:
    """Return what each datum shows as its prompt, and what it trains on."""
    found = []
    for one in render(read_batch(rows, "dpo"), tokenizer):  # type: ignore[arg-type]
        targets, weights = (one.loss_fn_inputs[k].to_numpy() for k in ("target_tokens", "weights"))
        tokens = one.model_input.to_ints()
        assert tokens[1:] == targets[:-1].tolist()
        ahead = len(tokens) - int(weights.sum()) + 1
        assert weights.tolist() == [0.0] * (ahead - 1) + [1.0] * int(weights.sum())
        found.append((tokenizer.decode(tokens[:ahead]), tokenizer.decode(targets[ahead - 1 :])))
    return found


@pytest.mark.row(90)
def test_texts_are_written_as_they_are() -> None:
    bos, eos = LLAMA.bos_token, LLAMA.eos_token
    assert LLAMA.encode("") == []  # this tokenizer adds no BOS
    assert bos
    assert rendered(TEXTS, LLAMA) == [
        ("2+2=", f"4{eos}"),
        ("2+2=", f"5{eos}"),
        ("The sky is ", f"blue.{eos}"),
        ("The sky is ", f"a lie.{eos}"),
    ]


@pytest.mark.row(90)
def test_conversations_are_written_by_the_chat_template() -> None:
    qwen = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert rendered(CHATS, QWEN) == [
        (qwen, "Hello.<|im_end|>\n"),
        (qwen, "Hello there, and welcome.<|im_end|>\n"),
    ]
    for one, (ahead, behind) in zip(("Hello.", "Hello there, and welcome."), rendered(CHATS, LLAMA), strict=True):
        assert ahead == LLAMA.apply_chat_template(CHATS[0]["prompt"], tokenize=False, add_generation_prompt=True)
        assert behind == f"{one}<|eot_id|>"


def test_a_template_that_writes_the_prompt_anew_is_refused() -> None:
    last = "{% for m in messages %}{{ m['content'] }}{% if loop.last %}(last){% endif %}{% endfor %}"
    tokenizer = Tokenizer(QWEN.backend_tokenizer, {}, last)
    with pytest.raises(
        UserError, match=r"data\[0\]\['chosen'\]: chat_template: got 'a template that writes the prompt"
    ):
        render(read_batch(CHATS, "dpo"), tokenizer)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"chat_template: got None"):
        render(read_batch(CHATS, "dpo"), Tokenizer(QWEN.backend_tokenizer))  # type: ignore[arg-type]


PAIR = PreferencePair(datum(3), datum(4))


@pytest.mark.row(36, 90)
@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "data: got 'no datums'"),
        ([datum(3)], "data: got '1 datums', expected pairs for loss_fn 'dpo': chosen and rejected in turn"),
        ([PAIR, datum(3)], r"data\[1\]: .* expected a PreferencePair as data\[0\] is one"),
        ([datum(3), TEXTS[0]], r"data\[1\]: .* expected a Datum as data\[0\] is one"),
        ([TEXTS[0], PAIR], r"data\[1\]: .* expected a row \{prompt, chosen, rejected\}"),
        (["a"], r"data\[0\]: got 'a', expected a Datum, a PreferencePair or a row"),
        ([{"prompt": "a", "chosen": "b"}], r"data\[0\]\['rejected'\]: got None"),
        (
            [{"prompt": "", "chosen": "b", "rejected": "c"}],
            r"data\[0\]\['prompt'\]: got '', expected a text that is not",
        ),
        ([{"prompt": "a", "chosen": "", "rejected": "c"}], r"data\[0\]\['chosen'\]: got ''"),
        ([{"prompt": "a", "chosen": "b", "rejected": "b"}], r"data\[0\]\['rejected'\]: got 'b', expected another"),
        ([{"prompt": "a", "chosen": [], "rejected": "b"}], r"data\[0\]\['chosen'\]: got \[\], expected a text"),
        (
            [{"prompt": [], "chosen": "b", "rejected": "c"}],
            r"data\[0\]\['prompt'\]: got \[\], expected a text, or mess",
        ),
        ([{"prompt": 3, "chosen": "b", "rejected": "c"}], r"data\[0\]\['prompt'\]: got 3"),
        ([{"prompt": [{"role": "user"}], "chosen": "b", "rejected": "c"}], r"\['prompt'\]\[0\]: .*role and content"),
        ([{**CHATS[0], "chosen": [{"role": "assistant", "content": ""}]}], r"\['chosen'\]\[0\]: .*role and content"),
    ],
)
def test_bad_pairs_are_refused_at_the_call(data: list[Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_batch(data, "dpo")


def test_other_losses_take_datums_only() -> None:
    with pytest.raises(UserError, match=r"data\[0\]: got PreferencePair.* expected a Datum"):
        read_batch([PAIR], "cross_entropy")
    with pytest.raises(UserError, match=r"PreferencePair.rejected: got 3, expected a Datum"):
        PreferencePair(datum(3), 3)  # type: ignore[arg-type]


@pytest.mark.row(90)
def test_all_forms_are_the_same_on_the_wire(fake: FakeService, service: ServiceClient) -> None:
    fake.config = {"losses": ["dpo"], "fwdbwd_max_chunk_len": 3}
    training = service.create_lora_training_client("tinsmith-tiny")
    datums = render(read_batch(TEXTS, "dpo"), TINY)  # type: ignore[arg-type]
    pairs = [PreferencePair(*datums[i : i + 2]) for i in (0, 2)]
    for form in (datums, pairs, TEXTS):
        training.forward_backward(form, "dpo", dpo_beta=0.2, reference="base").result()
    sent = [body for _, _, body in fake.models[training.model_id].log]
    # Two requests of each: a pair is never cut.
    assert [len(body.data) for body in sent] == [2] * 6
    assert all(body.loss_fn_config == {"dpo_beta": 0.2, "reference": "base"} for body in sent)
    for first, others in zip(sent[:2], (sent[2::2], sent[3::2]), strict=True):
        assert all(body.data == first.data for body in others)


def test_rows_that_cannot_be_rendered_take_no_step(
    fake: FakeService, service: ServiceClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(rows: object, tokenizer: object) -> list[Datum]:
        raise UserError("data[0]['chosen']: chat template: no such role")

    monkeypatch.setattr(batch_requests, "render", refuse)
    fake.config = {"losses": ["dpo"]}
    training = service.create_lora_training_client("tinsmith-tiny")
    lost, step = training.forward_backward(CHATS, "dpo"), training.optim_step(AdamParams())
    with pytest.raises(UserError, match="no such role"):
        lost.result()
    with pytest.raises(RequestFailedError, match=r"no step was taken: the forward_backward before it.*no such role"):
        step.result()
    training.forward_backward([datum(3)], "cross_entropy")
    training.optim_step(AdamParams()).result()


def test_given_reference_logprobs_travel(fake: FakeService, service: ServiceClient) -> None:
    fake.config = {"losses": ["dpo"]}
    training = service.create_lora_training_client("tinsmith-tiny")
    given = [
        Datum(datum(3, seed=i).model_input, {**datum(3, seed=i).loss_fn_inputs, "ref_logprobs": [-1, -2, -3]})
        for i in (0, 1)
    ]
    training.forward_backward([PreferencePair(*given)], "dpo").result()
    ((_, _, body),) = fake.models[training.model_id].log
    for one in body.data:
        np.testing.assert_array_equal(one.loss_fn_inputs["ref_logprobs"].to_numpy(), np.float32([-1, -2, -3]))
