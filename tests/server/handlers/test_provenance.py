"""Recorded sequences: what a datum names is looked up at the door, and enters its operation before that is stored."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import numpy as np
import pytest
from sqlalchemy import delete, func, select, text

from tests.server.client import Client, Failed
from tests.server.conftest import Restarting, Running, Start, engine_dies, up
from tinsmith.server.store.db.tables import RecordingRow
from tinsmith.types.codec import (
    decode_forward_backward_request,
    decode_sample_response,
    encode_forward_backward_request,
)
from tinsmith.types.datum import Datum
from tinsmith.types.engine_messages.operations import OpKind
from tinsmith.types.errors import RequestErrorCategory
from tinsmith.types.provenance import PromptProvenanceSpan as PromptSpan
from tinsmith.types.provenance import SampledProvenanceSpan as SampledSpan

pytestmark = [pytest.mark.anyio, pytest.mark.row(203)]

PROMPT = [1, 2, 3]


async def sample(client: Client, sampler: str, seq_id: int = 0, recorded: bool = True, **fields: Any) -> list[Any]:
    """Sample and return (sequence_id, sequence) pairs."""
    promise = await client.post_sample(sampler, seq_id, record_stability_info=recorded, **fields)
    response = await client.result(promise)
    return list(zip(promise["sample_sequence_ids"], response.sequences, strict=True))


def datum_of(sequence_id: str, tokens: list[int], *, spans: bool = True, **inputs: Any) -> Datum:
    """A datum as the official cookbook's flat loop makes it: targets at prompt positions are 0."""
    ahead = len(PROMPT) - 1
    given = {"target_tokens": [0] * ahead + tokens, "advantages": [0.0] * ahead + [1.0] * len(tokens)} | inputs
    datum = Datum([*PROMPT, *tokens[:-1]], {key: value for key, value in given.items() if value is not None})
    if not spans:
        return datum
    return datum.with_provenance(
        [PromptSpan(sequence_id=sequence_id, length=3), SampledSpan(sequence_id=sequence_id, length=len(tokens) - 1)],
        [
            PromptSpan(sequence_id=sequence_id, offset=1, length=2),
            SampledSpan(sequence_id=sequence_id, length=len(tokens)),
        ],
    )


async def post(client: Client, model: str, *data: Datum, seq_id: int | None = None, **options: Any) -> dict[str, Any]:
    """Post a forward_backward with stable_reinforce, or another loss."""
    seq_id = seq_id if seq_id is not None else client.seq(model)
    options = {"loss_fn": "stable_reinforce"} | options
    return await client.post("forward_backward", encode_forward_backward_request(model, seq_id, data, **options))


def passes(running: Running) -> list[Any]:
    """The forward_backwards as the engine got them in this life."""
    bodies = [op.read_body() for op in running.link.submitted if op.kind is OpKind.FORWARD_BACKWARD]
    return [decode_forward_backward_request(body) for body in bodies]


async def rows(running: Running) -> int:
    query = select(func.count()).select_from(RecordingRow)
    return await running.service.core.db.read_async(lambda connection: connection.execute(query).scalar_one())


async def test_an_engine_gets_the_recorded_logprobs_and_no_spans(running: Running) -> None:
    client = await running.client()
    model = await client.create_model()
    sampler = await client.snapshot(model)
    drawn = await sample(client, sampler, num_samples=2)
    data = [datum_of(sequence_id, s.tokens) for sequence_id, s in drawn]
    promise = await post(client, model, *data, seq_id=2)
    assert await post(client, model, *data, seq_id=2) == promise
    await client.result(promise)
    (request,) = passes(running)
    assert request.loss_fn == "stable_reinforce"
    for found, sent, (_, sequence) in zip(request.data, data, drawn, strict=True):
        assert found.model_input_spans is found.loss_fn_input_spans is None
        assert found.loss_fn_inputs["logprobs"].tolist() == [0.0, 0.0, *sequence.logprobs]
        assert sequence.logprobs == [-4.0] * 4
        rest = {key: value for key, value in found.loss_fn_inputs.items() if key != "logprobs"}
        assert (found.model_input, rest) == (sent.model_input, sent.loss_fn_inputs)


async def test_a_sequence_of_several_turns_names_several_sequences(running: Running) -> None:
    client = await running.client()
    model = await client.create_model()
    sampler = await client.snapshot(model)
    ((first, one),) = await sample(client, sampler, 0)
    prompt = {"chunks": [{"type": "encoded_text", "tokens": [*PROMPT, *one.tokens, 9]}]}
    ((second, two),) = await sample(client, sampler, 1, prompt=prompt)
    tokens = [*PROMPT, *one.tokens, 9, *two.tokens]
    spans = [
        PromptSpan(sequence_id=first, length=3),
        SampledSpan(sequence_id=first, length=4),
        PromptSpan(sequence_id=second, offset=7, length=1),
        SampledSpan(sequence_id=second, length=4),
    ]
    advantages = [0, 0, 1, 1, 1, 1, 0, 1, 1, 1, 1]
    datum = Datum(tokens[:-1], {"target_tokens": tokens[1:], "advantages": advantages}).with_provenance(
        [*spans[:-1], dataclasses.replace(spans[-1], length=3)],
        [dataclasses.replace(spans[0], offset=1, length=2), *spans[1:]],
    )
    await client.result(await post(client, model, datum))
    (request,) = passes(running)
    assert request.data[0].loss_fn_inputs["logprobs"].tolist() == [0, 0, -4, -4, -4, -4, 0, -4, -4, -4, -4]


async def test_logprobs_that_the_client_sends_along_must_be_the_recorded_ones(running: Running) -> None:
    client = await running.client()
    model = await client.create_model()
    ((name, sequence),) = await sample(client, await client.snapshot(model))
    same = datum_of(name, sequence.tokens, logprobs=np.asarray([0, 0, -4, -4.01, -4, -4], np.float32))
    assert await client.result(await post(client, model, same))
    assert passes(running)[0].data[0].loss_fn_inputs["logprobs"].tolist() == [0, 0, -4, -4, -4, -4]
    other = datum_of(name, sequence.tokens, logprobs=[0, 0, -4, -1, -4, -4])
    with pytest.raises(Failed, match=r"\['logprobs'\]\[3\]: got -1.0, expected the recorded -4, or no logprobs at all"):
        await client.result(await post(client, model, other))
    short = datum_of(name, sequence.tokens, logprobs=[-4.0])
    with pytest.raises(Failed, match=r"\['logprobs'\]\.shape: got \[1\], expected \[6\]"):
        await client.result(await post(client, model, short))


def _spans(datum: Datum, model_input: list[Any], loss_fn_inputs: list[Any]) -> Datum:
    return dataclasses.replace(datum, model_input_spans=model_input, loss_fn_input_spans=loss_fn_inputs)


def _faults(name: str, tokens: list[int]) -> dict[str, tuple[Datum, str]]:
    good = datum_of(name, tokens)
    prompt, sampled = (lambda **f: PromptSpan(sequence_id=name, **f)), (lambda **f: SampledSpan(sequence_id=name, **f))
    mine, targets = good.model_input_spans or (), good.loss_fn_input_spans or ()
    wrong = [*tokens[:-1], (tokens[-1] + 1) % 100]
    moved = Datum([*PROMPT, (tokens[0] + 1) % 100, *tokens[1:-1]], good.loss_fn_inputs)
    return {
        "no spans": (datum_of(name, tokens, spans=False), r"data\[0\]\.loss_fn_input_spans: got None, expected spans"),
        "too few": (_spans(good, [*mine], [targets[1]]), r"loss_fn_input_spans: got 'spans over 4 positions'"),
        "too many": (_spans(good, [*mine, sampled(length=1)], [*targets]), r"model_input_spans: got 'spans over 7"),
        "another prompt token": (
            _spans(good, [prompt(offset=1, length=2), prompt(length=1), mine[1]], [*targets]),
            r"model_input\[0\]: got 1, expected 2, which the span there says",
        ),
        "another input": (_spans(moved, [*mine], [*targets]), rf"model_input\[3\]: got .*, expected {tokens[0]}"),
        "another target": (
            datum_of(name, tokens, target_tokens=[0, 0, *wrong]),
            rf"\['target_tokens'\]\[5\]: got {wrong[-1]}, expected {tokens[-1]}",
        ),
        "beyond what was drawn": (
            _spans(good, [*mine], [targets[0], sampled(offset=1, length=4)]),
            r"loss_fn_input_spans\[1\]\.offset \+ length: got 5, expected at most 4, the sampled tokens of",
        ),
        "beyond the prompt": (
            _spans(good, [prompt(length=6)], [*targets]),
            r"model_input_spans\[0\]\.offset \+ length: got 6, expected at most 3, the prompt tokens of",
        ),
        "a prompt that trains": (
            datum_of(name, tokens, advantages=[0, 0.5, 1, 1, 1, 1]),
            r"\['advantages'\]\[1\]: got 0.5, expected 0, since the span there is of a prompt",
        ),
        "a number that was not drawn": (
            datum_of(name[:-1] + "7", tokens),
            r"model_input_spans\[0\]\.sequence_id: got '\w+-7', expected a sequence of yours that was sampled",
        ),
        "no number": (datum_of(name[:-1] + "²", tokens), "expected a sequence of yours"),
        "no id at all": (datum_of("nonsense", tokens), "sequence_id: got 'nonsense', expected a sequence of yours"),
        "no targets": (datum_of(name, tokens, target_tokens=None), r"\['target_tokens'\]\.shape: got None"),
        "no advantages": (datum_of(name, tokens, advantages=None), r"\['advantages'\]: got None"),
        "short advantages": (datum_of(name, tokens, advantages=[0.0]), r"\['advantages'\]\.shape: got \[1\]"),
    }


@pytest.mark.row(36)
@pytest.mark.parametrize("fault", _faults("x-0", [1, 2, 3, 4]))
async def test_faults_fail_at_the_door_and_nothing_runs(running: Running, fault: str) -> None:
    client = await running.client()
    model = await client.create_model()
    ((name, sequence),) = await sample(client, await client.snapshot(model))
    datum, message = _faults(name, sequence.tokens)[fault]
    with pytest.raises(Failed, match=message) as failed:
        await client.result(await post(client, model, datum))
    assert failed.value.category == "user"
    assert passes(running) == []
    # As after any refused pass: half a batch is not trained on, and then all is well.
    with pytest.raises(Failed, match="failed"):
        await client.optim_step(model)
    assert await client.result(await post(client, model, datum_of(name, sequence.tokens)))
    assert await client.optim_step(model)


@pytest.mark.row(36)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda span: span.sampled_tokens.ClearField("sequence_id"), r"SampledProvenanceSpan\.sequence_id: got ''"),
        (lambda span: setattr(span.sampled_tokens, "offset", -1), r"\.offset: got -1, expected 0 or more"),
        (lambda span: setattr(span.sampled_tokens, "length", -1), r"\.length: got -1, expected 0 or more"),
        (lambda span: span.Clear(), r"loss_fn_input_spans\[1\]: got 'nothing', expected prompt_tokens or sampled"),
    ],
)
async def test_spans_that_are_none(running: Running, change: Any, message: str) -> None:
    from tinsmith.types.codec import parse_forward_backward_request

    client = await running.client()
    model = await client.create_model()
    ((name, sequence),) = await sample(client, await client.snapshot(model))
    good = datum_of(name, sequence.tokens)
    for loss_fn in ("stable_reinforce", "importance_sampling"):
        seq_id = client.seq(model)
        request = parse_forward_backward_request(encode_forward_backward_request(model, seq_id, [good], loss_fn))
        change(request.data[0].loss_fn_input_spans[1])
        with pytest.raises(Failed, match=message):
            await client.result(await client.post("forward_backward", request.SerializeToString()))
    half = parse_forward_backward_request(encode_forward_backward_request(model, client.seq(model), [good], "ppo"))
    del half.data[0].model_input_spans[:]
    with pytest.raises(Failed, match=r"data\[0\].*model_input_spans: got None, expected spans of both fields"):
        await client.result(await client.post("forward_backward", half.SerializeToString()))


async def test_what_was_not_recorded_is_not_known_and_what_is_others_is_not_either(running: Running) -> None:
    client, other = await running.client(), await running.client("other")
    model, theirs = await client.create_model(), await other.create_model()
    sampler = await client.snapshot(model)
    ((silent, sequence),) = await sample(client, sampler, 0, recorded=False)
    ((recorded, again),) = await sample(client, sampler, 1)
    assert await rows(running) == 1
    for who, its, name, tokens in ((client, model, silent, sequence.tokens), (other, theirs, recorded, again.tokens)):
        with pytest.raises(Failed, match=f"sequence_id: got '{name}', expected a sequence of yours that was sampled"):
            await who.result(await post(who, its, datum_of(name, tokens)))
    # Of another session of the same owner's, it is theirs.
    second = await running.client()
    assert await second.result(await post(second, await second.create_model(), datum_of(recorded, again.tokens)))


async def test_other_losses_take_spans_and_look_nothing_up(running: Running) -> None:
    client = await running.client()
    model = await client.create_model()
    datum = datum_of("whatever-0", [5, 6, 7, 8], logprobs=[0.0] * 6)
    assert await client.result(await post(client, model, datum, loss_fn="importance_sampling"))
    short = dataclasses.replace(datum, loss_fn_input_spans=datum.loss_fn_input_spans[:1])
    with pytest.raises(Failed, match=r"loss_fn_input_spans: got 'spans over 2 positions', expected spans over all 6"):
        await client.result(await post(client, model, short, loss_fn="importance_sampling"))


async def test_a_batch_that_is_too_large_is_not_looked_up(start: Start) -> None:
    running = await start(max_datums=1)
    client = await running.client()
    model = await client.create_model()
    datum = datum_of("nonsense", [5, 6])
    with pytest.raises(Failed, match="at most 1 in one request"):
        await client.result(await post(client, model, datum, datum))


async def test_the_service_says_once_that_the_loss_is_its_own(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    client = await running.client()
    model = await client.create_model()
    ((name, sequence),) = await sample(client, await client.snapshot(model))
    with caplog.at_level(logging.WARNING, "tinsmith.server"):
        for _ in range(2):
            await client.result(await post(client, model, datum_of(name, sequence.tokens)))
    (said,) = caplog.messages
    assert said.startswith("loss_fn 'stable_reinforce': what the hosted service computes is not published")


# -- lifetime ---------------------------------------------------------------------------------------------------------


async def test_recordings_outlive_a_killed_service(restarting: Restarting) -> None:
    client = await restarting.begin()
    model = await client.create_model()
    ((name, sequence),) = await sample(client, await client.snapshot(model))
    await restarting.kill(client)
    assert await client.result(await post(client, model, datum_of(name, sequence.tokens)))


@pytest.mark.parametrize(
    ("values", "half"),
    [
        ("sequences = x'00'", "sequences"),
        ("sequences = x''", "sequences"),
        ("sequences = NULL", "sequences"),
        ("sequences = sequences || x'00'", "sequences"),
        ("sequences = substr(sequences, 1, length(sequences) - 1)", "sequences"),
        ("sequences = 'words'", "sequences"),
        ("sequences = 7", "sequences"),
        ("sequences_digest = CAST(x'ff' AS TEXT)", "sequences"),
        ("sequences = prompt", "sequences"),
        ("sequences_digest = 'x'", "sequences"),
        ("prompt = x'01000000'", "prompt"),
        ("prompt = x''", "prompt"),
        ("prompt = prompt || x'00'", "prompt"),
        ("prompt_digest = sequences_digest", "prompt"),
    ],
)
async def test_a_damaged_recording_fails_the_loss_that_names_it(running: Running, values: str, half: str) -> None:
    client = await running.client()
    model = await client.create_model()
    sampler = await client.snapshot(model)
    ((bad, sequence),) = await sample(client, sampler)
    ((good, other),) = await sample(client, sampler, 1)
    await change_recording(running, values, bad)
    with pytest.raises(Failed, match=rf"the {half} of sample {bad[:-2]} is damaged") as failed:
        await client.result(await post(client, model, datum_of(bad, sequence.tokens)))
    assert failed.value.category == "server"
    assert await client.result(await post(client, model, datum_of(good, other.tokens)))


async def test_recordings_that_changed_places_are_told(running: Running) -> None:
    client = await running.client()
    model = await client.create_model()
    sampler = await client.snapshot(model)
    ((one, sequence),) = await sample(client, sampler)
    ((other, _),) = await sample(client, sampler, 1)
    theirs = f"FROM recordings WHERE request_id = '{other[:-2]}'"
    values = f"sequences = (SELECT sequences {theirs}), sequences_digest = (SELECT sequences_digest {theirs})"
    await change_recording(running, values, one)
    with pytest.raises(Failed, match=rf"the sequences of sample {one[:-2]} is damaged"):
        await client.result(await post(client, model, datum_of(one, sequence.tokens)))


async def test_a_recording_without_digests_is_read_as_it_is(running: Running) -> None:
    client = await running.client()
    model = await client.create_model()
    ((name, sequence),) = await sample(client, await client.snapshot(model))
    await change_recording(running, "prompt_digest = NULL, sequences_digest = NULL", name)
    assert await client.result(await post(client, model, datum_of(name, sequence.tokens)))


async def change_recording(running: Running, values: str, sequence_id: str) -> None:
    """Change a recording behind the service's back."""
    statement = text(f"UPDATE recordings SET {values} WHERE request_id = :id")
    await running.service.core.db.write(lambda c: c.execute(statement, {"id": sequence_id[:-2]}))


async def test_a_replay_needs_no_recording(restarting: Restarting) -> None:
    client = await restarting.begin()
    model = await client.create_model()
    ((name, sequence),) = await sample(client, await client.snapshot(model))
    await client.result(await post(client, model, datum_of(name, sequence.tokens)))
    db = restarting.running.service.core.db
    await db.write(lambda connection: connection.execute(delete(RecordingRow)))
    await engine_dies(restarting.running)
    await restarting.kill(client)
    assert await client.optim_step(model)
    (request,) = passes(restarting.running)
    assert request.data[0].loss_fn_inputs["logprobs"].tolist() == [0, 0, *sequence.logprobs]
    with pytest.raises(Failed, match="expected a sequence of yours"):
        await client.result(await post(client, model, datum_of(name, sequence.tokens)))


async def test_a_sample_that_a_crash_interrupts_is_recorded_when_it_is_drawn(restarting: Restarting) -> None:
    client = await restarting.begin()
    model = await client.create_model()
    sampler = await client.snapshot(model)
    restarting.running.link.holding = True
    promise = await client.post_sample(sampler, record_stability_info=True)
    await restarting.kill(client)
    await up(restarting.running)
    assert await client.post_sample(sampler, record_stability_info=True) == promise
    (sequence,) = (await client.result(promise)).sequences
    (name,) = promise["sample_sequence_ids"]
    assert await client.result(await post(client, model, datum_of(name, sequence.tokens)))


async def test_they_end_with_their_session(running: Running) -> None:
    client, other = await running.client(), await running.client()
    for one in (client, other):
        await sample(one, await one.sampler(base_model="tiny"))
    assert await rows(running) == 2
    await client.post(f"sessions/{client.session_id}/finish", {"reason": {"type": "success"}}, 204)
    await running.service.sessions._drains.finish(5)
    assert await rows(running) == 1


async def test_they_are_forgotten_a_while_after_their_last_use(start: Start) -> None:
    running = await start(recording_retention_s=1000.0)
    client = await running.client()
    model = await client.create_model()
    sampler = await client.snapshot(model)
    drawn = [(await sample(client, sampler, n))[0] for n in range(2)]

    async def age(seconds: float) -> None:
        older = RecordingRow.__table__.update().values(used_at=RecordingRow.used_at - seconds)
        await running.service.core.db.write(lambda connection: connection.execute(older))

    await age(600)
    await client.result(await post(client, model, datum_of(drawn[0][0], drawn[0][1].tokens)))
    await age(600)
    await running.service.sweeper.sweep()
    assert await rows(running) == 1
    await client.result(await post(client, model, datum_of(drawn[0][0], drawn[0][1].tokens)))
    with pytest.raises(Failed, match=f"got '{drawn[1][0]}', expected a sequence of yours .* and is still kept"):
        await client.result(await post(client, model, datum_of(drawn[1][0], drawn[1][1].tokens)))


async def test_an_owner_has_only_so_much_room_and_the_longest_unused_go_first(start: Start) -> None:
    running = await start(max_recorded_mb=1)
    client, other = await running.client(), await running.client("other")
    sampler, theirs = await client.sampler(base_model="tiny"), await other.sampler(base_model="tiny")
    large = {"num_samples": 1024, "params": {"max_tokens": 48}}
    kept = [(await sample(client, sampler, n, **large))[0][0] for n in range(3)]
    await sample(other, theirs, **large)
    await running.service.sweeper.sweep()
    query = select(RecordingRow.request_id, RecordingRow.size_bytes)
    left = await running.service.core.db.read_async(lambda c: {r.request_id: r.size_bytes for r in c.execute(query)})
    assert [name.rpartition("-")[0] in left for name in kept] == [False, True, True]
    assert len(left) == 3
    assert all(1024 * 48 * 8 < size < 1024 * 48 * 12 for size in left.values())


async def test_samples_that_fail_or_are_cancelled_leave_nothing(running: Running) -> None:
    client = await running.client()
    sampler = await client.sampler(base_model="tiny")
    running.link.fail = {OpKind.SAMPLE: ("out of memory", RequestErrorCategory.SERVER)}
    with pytest.raises(Failed, match="out of memory"):
        await sample(client, sampler, 0)
    running.link.fail, running.link.holding = {}, True
    promise = await client.post_sample(sampler, 1, record_stability_info=True)
    assert await rows(running) == 1
    await client.post("cancel_future", {"request_id": promise["request_id"]})
    with pytest.raises(Failed, match="cancelled"):
        await client.result(promise)
    with pytest.raises(Failed, match="num_samples"):
        await sample(client, sampler, 2, num_samples=0)
    assert await rows(running) == 0


async def test_a_service_without_a_journal_records_too(start: Start) -> None:
    running = await start(journal=False, owner="local")
    client = Client(running.http())
    await client.open()
    model = await client.create_model()
    ((name, sequence),) = await sample(client, await client.snapshot(model))
    assert await client.result(await post(client, model, datum_of(name, sequence.tokens)))
    await running.service.stop()


async def test_only_tokens_and_logprobs_are_recorded(running: Running) -> None:
    client = await running.client()
    sampler = await client.sampler(base_model="tiny")
    await sample(client, sampler, prompt_logprobs=True)
    row = await running.service.core.db.read_async(lambda c: c.execute(select(*RecordingRow.__table__.columns)).one())
    assert np.frombuffer(row.prompt, "<i4").tolist() == PROMPT
    assert decode_sample_response(row.sequences).prompt_logprobs is None
