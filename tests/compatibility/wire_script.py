"""What is said over the wire: by the official SDK, by ours, and by somebody who makes mistakes.

Each waits for every answer before it goes on, so that the order is always the same.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import tinker
import zstandard

import tinsmith
from tests.compatibility.serving import ADAM, MODEL, PROTOBUF, VOCABULARY, Raw, pass_body, sample_body
from tests.support.live_server import KEY

TIMEOUT = 60
PROMPT = [3, 1, 4, 1, 5]
LOSSES: dict[str, dict[str, float]] = {
    "cross_entropy": {},
    "importance_sampling": {},
    "ppo": {"clip_low_threshold": 0.9, "clip_high_threshold": 1.1},
    "cispo": {"clip_low_threshold": 0.7},
    "dro": {"beta": 0.1},
}


def official(url: str) -> None:
    """The official SDK."""
    with tinker.ServiceClient(base_url=url, api_key=KEY, user_metadata={"who": "official"}) as service:
        service.get_server_capabilities()
        client = service.create_lora_training_client(MODEL, rank=4, seed=1).result(TIMEOUT)
        _train(tinker, client)
        sampler_path = _save(tinker, client)
        snapshot = client.save_weights_and_get_sampling_client().result(TIMEOUT)
        _sample(tinker, snapshot)
        saved = service.create_sampling_client(model_path=sampler_path).result(TIMEOUT)
        _sample_once(tinker, saved)
        base = service.create_sampling_client(base_model=MODEL).result(TIMEOUT)
        _sample_once(tinker, base)
        _manage(tinker.RestClient(base_url=url, api_key=KEY), client)
        state = f"tinker://{client.model_id}/weights/state"
        service.create_training_client_from_state(state).result(TIMEOUT)
        again = service.create_training_client_from_state_with_optimizer(state).result(TIMEOUT)
        again.load_state(state).result(TIMEOUT)
        again.load_state_with_optimizer(state).result(TIMEOUT)


def ours(url: str) -> None:
    """Our SDK, the same."""
    with tinsmith.ServiceClient(base_url=url, api_key=KEY, user_metadata={"who": "ours"}) as service:
        service.get_server_capabilities()
        client = service.create_lora_training_client(MODEL, rank=4, seed=1).result()
        service.get_tokenizer(MODEL)
        _train(tinsmith, client)
        sampler_path = _save(tinsmith, client)
        snapshot = client.save_weights_and_get_sampling_client().result()
        _sample(tinsmith, snapshot)
        snapshot.close()
        _sample_once(tinsmith, service.create_sampling_client(model_path=sampler_path))
        _sample_once(tinsmith, service.create_sampling_client(base_model=MODEL))
        _manage(tinsmith.RestClient(base_url=url, api_key=KEY), client)
        state = f"tinker://{client.model_id}/weights/state"
        service.create_training_client_from_state(state).result()
        again = service.create_training_client_from_state_with_optimizer(state).result()
        again.load_state(state).result()
        again.load_state_with_optimizer(state).result()


def by_hand(url: str) -> None:
    """Mistakes of every shape, and answers in JSON for those who ask for them."""
    raw = Raw(url)
    session = raw.answer("create_session", {"tags": ["by hand"], "user_metadata": {}})["session_id"]
    opened = {"session_id": session, "sampling_session_seq_id": 0, "base_model": MODEL}
    sampler = raw.answer("create_sampling_session", opened)["sampling_session_id"]
    made = {"session_id": session, "model_seq_id": 0, "base_model": MODEL, "lora_config": {"rank": 4, "seed": 1}}
    model = raw.outcome(raw.submit("create_model", made)).json()["model_id"]
    _refused(raw, session, sampler)
    _failed(raw, session, model, sampler)
    _json_results(raw, model, sampler)
    for path in (f"sessions/{session}", f"samplers/{sampler}", "sessions", "training_runs/nobody", "auth/apikey/me"):
        raw.http.get(path)
    raw.post(f"sessions/{session}/finish", {"reason": {"type": "success"}, "detail": None})


def _refused(raw: Raw, session: str, sampler: str) -> None:
    raw.http.get("get_server_capabilities", headers={"X-API-Key": ""})  # 401
    raw.http.get("get_server_capabilities", headers={"X-API-Key": "tml-of-nobody"})
    raw.http.get("nothing/here")  # 404
    raw.post("retrieve_future", {"request_id": "nobody's"})
    raw.post("session_heartbeats", {})
    raw.post("get_info", {"model_id": f"{session}:train:99"})
    raw.http.post("create_session", content=b"no JSON")  # 400
    raw.post("forward_backward", b"\xff\xff")
    raw.post("copy_weights", {})
    raw.post("weights_info", {"tinker_path": "not a path"})
    raw.post("create_sampling_session", {"session_id": session, "sampling_session_seq_id": 1})
    raw.post("retrieve_future", {})  # 422
    raw.http.get("checkpoints", params={"limit": -1})
    raw.http.post("forward_backward", json={})  # 415
    raw.http.post("optim_step", json={}, headers={"Content-Encoding": "br"})
    raw.http.get("tokenizer", params={"model": "nobody's"})
    raw.post(f"samplers/{sampler}x/close", {})


def _failed(raw: Raw, session: str, model: str, sampler: str) -> None:
    """Futures that fail, one for each reason."""
    unknown = {"session_id": session, "model_seq_id": 9, "base_model": "nobody's", "lora_config": {"rank": 4}}
    raw.done("create_model", unknown)
    raw.done("create_model", unknown | {"base_model": MODEL, "model_seq_id": 10, "lora_config": {"rank": 9999}})
    raw.done("create_custom_loss", {})
    raw.done("asample", sample_body(sampler, 0, prompt=[VOCABULARY + 1]))
    raw.done("asample", sample_body(sampler, 1, num_samples=0))
    raw.done("asample", sample_body("nobody's", 2))
    raw.done("forward_backward", pass_body(model, 1, 1, first_token=VOCABULARY + 1))
    raw.done("optim_step", {"model_id": model, "seq_id": 2, "adam_params": ADAM})
    raw.done("optim_step", {"model_id": model, "seq_id": 3, "adam_params": ADAM | {"beta1": 2.0}})
    raw.done("save_weights", {"model_id": model, "seq_id": 4, "path": "no/name"})
    raw.done("save_weights", {"model_id": model, "seq_id": 5, "path": "short", "ttl_seconds": 1})
    raw.done("load_weights", {"model_id": model, "seq_id": 6, "path": "tinker://a/weights/b", "optimizer": True})
    raw.done("forward_backward", pass_body(model, 7, 2, loss_fn="importance_sampling", logprobs=-1000.0))
    raw.done("optim_step", {"model_id": model, "seq_id": 8, "adam_params": ADAM})
    raw.done("forward_backward", pass_body(model, 9, 1, loss_fn="nobody's"))


def _json_results(raw: Raw, model: str, sampler: str) -> None:
    json_only = {"Accept": "application/json"}
    trained = raw.submit("forward_backward", pass_body(model, 10, 3))
    options = {"prompt_logprobs": True, "topk_sample_logprobs": 2, "topk_prompt_logprobs": 2}
    sampled = raw.submit("asample", sample_body(sampler, 3, **options))
    for request_id in (trained, sampled):
        raw.outcome(request_id)
        raw.http.post("retrieve_future", json={"request_id": request_id}, headers=json_only)
    compressed = {"Content-Type": PROTOBUF, "Content-Encoding": "zstd"}
    raw.http.post("forward_backward", content=zstandard.compress(pass_body(model, 11, 4)), headers=compressed)
    compressed = {"Content-Encoding": "gzip"}
    step = json.dumps({"model_id": model, "seq_id": 12, "adam_params": ADAM}).encode()
    promise = raw.http.post("optim_step", content=gzip.compress(step), headers=compressed).json()
    raw.outcome(promise["request_id"])
    raw.post("cancel_future", {"request_id": sampled})
    again = sample_body(sampler, 3, **options)
    raw.post("asample", again)  # the same request again, and another under its number
    raw.done("asample", again | {"num_samples": 1})


# -- what both SDKs are asked -----------------------------------------------------------------------------------------


def _train(sdk: Any, client: Any) -> None:
    for number, (loss_fn, config) in enumerate(LOSSES.items()):
        data = [_datum(sdk, loss_fn, length, number) for length in (5, 8)]
        client.forward_backward(data, loss_fn, config or None).result(TIMEOUT)
    for kind in (_two_d, _sparse, _bare):
        client.forward_backward([_datum(sdk, "cross_entropy", 6, 9, kind)], "cross_entropy").result(TIMEOUT)
    client.forward([_datum(sdk, "cross_entropy", 7, 10)], "cross_entropy").result(TIMEOUT)
    client.optim_step(sdk.AdamParams(**ADAM)).result(TIMEOUT)
    client.optim_step(sdk.AdamParams(learning_rate=1e-3)).result(TIMEOUT)
    client.get_info()


def _datum(sdk: Any, loss_fn: str, length: int, seed: int, kind: Callable[..., dict[str, Any]] | None = None) -> Any:
    rng = np.random.default_rng(seed)
    tokens = [int(t) for t in rng.integers(0, VOCABULARY, length)]
    targets = rng.integers(0, VOCABULARY, length)
    if kind is not None:
        inputs = kind(sdk, rng, length)
    elif loss_fn == "cross_entropy":
        inputs = {"target_tokens": targets, "weights": rng.random(length).astype(np.float32)}
    else:
        near = (-5.7 + 0.3 * rng.normal(size=length)).astype(np.float32)
        inputs = {"target_tokens": targets, "logprobs": near, "advantages": rng.normal(size=length).astype(np.float32)}
    return sdk.Datum(model_input=sdk.ModelInput.from_ints(tokens), loss_fn_inputs=inputs)


def _two_d(sdk: Any, rng: np.random.Generator, length: int) -> dict[str, Any]:
    weights = rng.random((length, 3)).astype(np.float32)
    return {"target_tokens": rng.integers(0, VOCABULARY, (length, 3)), "weights": weights}


def _sparse(sdk: Any, rng: np.random.Generator, length: int) -> dict[str, Any]:
    """Return targets and weights of one column in eight: those that are named are at the same places in both."""
    places = {"sparse_crow_indices": list(range(length + 1)), "sparse_col_indices": [n % 8 for n in range(length)]}
    targets = sdk.TensorData(rng.integers(1, VOCABULARY, length), "int64", [length, 8], **places)
    weights = sdk.TensorData(rng.random(length).astype(np.float32), "float32", [length, 8], **places)
    return {"target_tokens": targets, "weights": weights}


def _bare(sdk: Any, rng: np.random.Generator, length: int) -> dict[str, Any]:
    return {"target_tokens": [int(t) for t in rng.integers(0, VOCABULARY, length)]}


def _save(sdk: Any, client: Any) -> str:
    client.save_state("state", ttl_seconds=7200, user_metadata={"note": "kept"}).result(TIMEOUT)
    client.save_state("state", overwrite=True).result(TIMEOUT)
    return client.save_weights_for_sampler("sampler").result(TIMEOUT).path


def _sample(sdk: Any, sampler: Any) -> None:
    prompt = sdk.ModelInput.from_ints(PROMPT)
    greedy = sdk.SamplingParams(max_tokens=5, temperature=0.0, seed=1, stop=[])
    drawn = sdk.SamplingParams(max_tokens=5, temperature=0.8, top_k=20, top_p=0.9, seed=2, stop=[7])
    text_stop = sdk.SamplingParams(max_tokens=5, seed=3, stop=["zz", "yy"])
    sampler.sample(prompt, 1, greedy).result(TIMEOUT)
    sampler.sample(prompt, 2, drawn).result(TIMEOUT)
    sampler.sample(prompt, 1, text_stop).result(TIMEOUT)
    sampler.sample(prompt, 1, greedy, include_prompt_logprobs=True).result(TIMEOUT)
    sampler.sample(prompt, 1, greedy, include_prompt_logprobs=True, topk_prompt_logprobs=3).result(TIMEOUT)
    sampler.sample(prompt, 1, drawn, topk_sample_logprobs=3).result(TIMEOUT)
    sampler.compute_logprobs(prompt).result(TIMEOUT)


def _sample_once(sdk: Any, sampler: Any) -> None:
    params = sdk.SamplingParams(max_tokens=3, seed=4, stop=[])
    sampler.sample(sdk.ModelInput.from_ints(PROMPT), 1, params).result(TIMEOUT)


def _manage(rest: Any, client: Any) -> None:
    """Listings and lifetimes; what is listed is this client's alone."""
    run = client.model_id
    state = f"tinker://{run}/weights/state"
    rest.list_checkpoints(run).result(TIMEOUT)
    rest.get_training_run(run).result(TIMEOUT)
    rest.get_weights_info_by_tinker_path(state).result(TIMEOUT)
    rest.set_checkpoint_ttl_from_tinker_path(state, 7200).result(TIMEOUT)
    rest.set_checkpoint_ttl_from_tinker_path(state, None).result(TIMEOUT)
    rest.publish_checkpoint_from_tinker_path(state).result(TIMEOUT)
    rest.unpublish_checkpoint_from_tinker_path(state).result(TIMEOUT)
    client.save_state("gone").result(TIMEOUT)
    rest.delete_checkpoint_from_tinker_path(f"tinker://{run}/weights/gone").result(TIMEOUT)
    rest.list_user_checkpoints(limit=2).result(TIMEOUT)
    rest.list_training_runs(limit=1).result(TIMEOUT)


SCRIPTS: dict[str, Callable[[str], None]] = {"official": official, "ours": ours, "by_hand": by_hand}
