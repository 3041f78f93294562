"""The table of bad requests: how each is sent, where it must be refused, and what the message must name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import httpx
import numpy as np
import zstandard

from tests.bad_input.door import TOKENS, Door, datum, tensor, too_long
from tests.support.checkpoints import SHAPE
from tests.support.live_server import OTHER_LLAMA, QWEN3
from tinsmith.types.proto import tinsmith_pb2 as pb

NAN = float("nan")
USER = "user"


@dataclass(frozen=True)
class Case:
    """One bad request.

    Attributes:
        name: in the test's id.
        send: sends it.
        names: what the message must hold: field, value, expectation.
        status: of the refusal; 200 means that the future must fail.
    """

    name: str
    send: Callable[[Door], httpx.Response]
    names: tuple[str, ...]
    status: int = 200

    @property
    def category(self) -> str | None:
        """The category of a failed future."""
        return USER if self.status == 200 else None


def policy(**inputs: object) -> pb.Datum:
    """A sound datum of the policy losses, with some inputs replaced."""
    return datum(**({"logprobs": [-1.0] * 4, "advantages": [1.0] * 4} | inputs))


def image() -> pb.Datum:
    """A datum whose input is a picture."""
    message = datum()
    message.model_input[0].image.data = b"png"
    return message


def torn() -> pb.Tensor:
    """Seven bytes that claim to be numbers of four."""
    return pb.Tensor(dense=b"1234567", dtype=pb.FLOAT32, shape=[2])


def sparse(crow: list[int], col: list[int]) -> pb.Tensor:
    """A sparse tensor of shape (4, 3) with these indices."""
    message = pb.Tensor(dtype=pb.INT64, shape=[4, 3])
    message.sparse_csr.values = np.ones(len(col), "<i8").tobytes()
    message.sparse_csr.crow_indices = np.asarray(crow, "<i8").tobytes()
    message.sparse_csr.col_indices = np.asarray(col, "<i8").tobytes()
    return message


def completion(*tokens: int, prompt: tuple[int, ...] = (5, 6), **inputs: object) -> pb.Datum:
    """A datum of a loss over pairs: the completion has weights, the prompt has none."""
    sequence = [*prompt, *tokens]
    weights = [0.0] * (len(prompt) - 1) + [1.0] * len(tokens)
    return datum(sequence[:-1], **({"target_tokens": sequence[1:], "weights": weights} | inputs))


V, N = SHAPE.vocab_size, SHAPE.context_length

SHAPES = [
    Case("fewer targets", lambda d: d.train(datum(target_tokens=[1, 2])), ("target_tokens", "[2]", "4")),
    Case("fewer weights", lambda d: d.train(datum(weights=[1.0])), ("weights", "[1]", "4")),
    Case("weights 2-D", lambda d: d.train(datum(weights=np.ones((4, 2)))), ("weights", "[4, 2]", "[4]")),
    Case("targets 3-D", lambda d: d.train(datum(target_tokens=np.ones((4, 1, 1), int))), ("shape", "[4, 1, 1]")),
    Case("torn tensor", lambda d: d.train(datum(weights=torn())), ("weights", "7 bytes", "multiple of 4")),
    Case(
        "shape and bytes differ",
        lambda d: d.train(datum(weights=tensor([1.0] * 4, shape=[5]))),
        ("weights", "shape", "[5]", "4 values"),
    ),
    Case(
        "negative dimensions",
        lambda d: d.train(datum(weights=tensor([1.0] * 4, shape=[-2, -2]))),
        ("weights", "shape", "[-2, -2]"),
    ),
    Case(
        "sparse rows that fall",
        lambda d: d.train(datum(target_tokens=sparse([0, 2, 1, 2, 2], [0, 1]), weights=None)),
        ("target_tokens", "sparse_crow_indices"),
    ),
    Case(
        "sparse column beyond",
        lambda d: d.train(datum(target_tokens=sparse([0, 1, 1, 1, 1], [3]))),
        ("target_tokens", "sparse_col_indices", "3"),
    ),
    Case("weights int64", lambda d: d.train(datum(weights=[1] * 4)), ("weights", "dtype", "int64", "float32")),
    Case("targets float32", lambda d: d.train(datum(target_tokens=[1.0] * 4)), ("target_tokens", "dtype", "int64")),
    Case("2-D targets for ppo", lambda d: d.train(policy(target_tokens=np.ones((4, 2), int)), loss_fn="ppo"), ("[4]",)),
    Case("an image", lambda d: d.train(image()), ("model_input", "image", "encoded_text")),
]

VALUES = [
    Case("NaN weight", lambda d: d.train(datum(weights=[1.0, NAN, 1, 1])), ("weights'][1]", "nan", "finite")),
    Case(
        "infinite advantage", lambda d: d.train(policy(advantages=[np.inf] * 4), loss_fn="ppo"), ("advantages", "inf")
    ),
    Case("NaN logprob", lambda d: d.train(policy(logprobs=[0, 0, NAN, 0.0]), loss_fn="dro"), ("logprobs'][2]", "nan")),
    Case("input id = vocabulary", lambda d: d.train(datum([1, V])), ("model_input[1]", str(V), f"0 to {V - 1}")),
    Case("negative input id", lambda d: d.train(datum([-1, 1], target_tokens=[1, 1])), ("model_input[0]", "-1")),
    Case("target id beyond", lambda d: d.train(datum(target_tokens=[1, 1, 9999, 1])), ("target_tokens'][2]", "9999")),
    Case("negative target id", lambda d: d.train(datum(target_tokens=[-100, 1, 1, 1])), ("target_tokens'][0]", "-100")),
    Case("second datum at fault", lambda d: d.train(datum(), datum([V])), ("data[1]", "model_input[0]", str(V))),
    Case("empty batch", lambda d: d.train(), ("data", "0 datums", "at least one")),
    Case("empty datum", lambda d: d.train(datum([])), ("model_input", "0 tokens", "at least one")),
    Case("beyond the context", lambda d: d.train(datum(too_long())), ("model_input", str(N + 1), f"length {N}")),
]

LOSSES = [
    Case("unknown loss", lambda d: d.train(datum(), loss_fn="cross_entropie"), ("loss_fn", "cross_entropie", "ppo")),
    Case("unknown key", lambda d: d.train(datum(), clip=0.2), ("loss_fn_config['clip']", "0.2", "no key")),
    Case("misspelt key", lambda d: d.train(policy(), loss_fn="ppo", clip_low=0.2), ("clip_low", "clip_low_threshold")),
    Case("NaN key", lambda d: d.train(policy(), loss_fn="dro", beta=NAN), ("loss_fn_config['beta']", "nan", "finite")),
    Case("text key", lambda d: d.train(policy(), loss_fn="dro", beta="much"), ("loss_fn_config['beta']", "much")),
    Case(
        "thresholds crossed",
        lambda d: d.train(policy(), loss_fn="cispo", clip_low_threshold=5.0),
        ("clip_low_threshold", "5.0", "4.0"),
    ),
    Case("missing input", lambda d: d.train(policy(advantages=None), loss_fn="ppo"), ("advantages", "None", "ppo")),
    Case("input nobody reads", lambda d: d.train(datum(advantages=[1.0] * 4)), ("advantages", "cross_entropy")),
]

CHOSEN, REJECTED = completion(7, 8), completion(9)

PAIRS = [
    Case("odd number", lambda d: d.pairs(CHOSEN, REJECTED, CHOSEN), ("data", "3 datums", "chosen and rejected")),
    Case("equal completions", lambda d: d.pairs(CHOSEN, CHOSEN), ("data[1]", "data[0]", "differs")),
    Case("second pair", lambda d: d.pairs(CHOSEN, REJECTED, CHOSEN, CHOSEN), ("data[3]", "data[2]", "differs")),
    Case("empty completion", lambda d: d.pairs(CHOSEN, completion(weights=[0.0])), ("data[1]", "weights", "empty")),
    Case("other prompt", lambda d: d.pairs(CHOSEN, completion(9, prompt=(5, 7))), ("data[1]", "7", "6", "prompt")),
    Case("longer prompt", lambda d: d.pairs(CHOSEN, completion(9, prompt=(5, 6, 6))), ("data[1]", "3 tokens", "2")),
    Case("no weights", lambda d: d.pairs(CHOSEN, completion(9, weights=None)), ("data[1]", "weights", "None", "dpo")),
    Case("negative weight", lambda d: d.pairs(completion(9, weights=[0, -1.0]), REJECTED), ("data[0]", "-1.0")),
    Case("beyond the context", lambda d: d.pairs(CHOSEN, completion(*too_long())), ("data[1]", "model_input", str(N))),
    Case("fewer ref_logprobs", lambda d: d.pairs(completion(7, ref_logprobs=[0.0]), REJECTED), ("ref_logprobs", "[1]")),
    Case("beta of zero", lambda d: d.pairs(CHOSEN, REJECTED, dpo_beta=0.0), ("dpo_beta", "0", "more than 0")),
    Case("beta as text", lambda d: d.pairs(CHOSEN, REJECTED, dpo_beta="base"), ("dpo_beta", "base", "finite")),
    Case("smoothing", lambda d: d.pairs(CHOSEN, REJECTED, label_smoothing=0.7), ("label_smoothing", "0.7", "0.5")),
    Case("key of another loss", lambda d: d.pairs(CHOSEN, REJECTED, beta=0.1), ("'beta'", "dpo_beta", "reference")),
    Case("reference as number", lambda d: d.pairs(CHOSEN, REJECTED, reference=1.0), ("'reference'", "1.0", "'base'")),
    Case(
        "reference as name", lambda d: d.pairs(CHOSEN, REJECTED, reference="sft"), ("'reference'", "sft", "tinker://")
    ),
    Case(
        "reference that is no path",
        lambda d: d.pairs(CHOSEN, REJECTED, reference="tinker://sft"),
        ("'reference'", "tinker://sft", "weights/NAME"),
    ),
    Case(
        "unknown reference",
        lambda d: d.pairs(CHOSEN, REJECTED, reference=f"{d.state}-7"),
        ("'reference'", "state-7", "checkpoint of yours"),
    ),
    Case(
        "reference for simpo",
        lambda d: d.train(CHOSEN, REJECTED, loss_fn="simpo", reference="base"),
        ("'reference'", "simpo_beta", "simpo"),
    ),
]

STEPS = [
    Case("NaN learning rate", lambda d: d.step(learning_rate=NAN), ("adam_params.learning_rate", "nan", "finite")),
    Case("negative eps", lambda d: d.step(eps=-1e-8), ("adam_params.eps", "-1e-08", "not negative")),
    Case("beta1 of one", lambda d: d.step(beta1=1.0), ("adam_params.beta1", "1.0", "[0, 1)")),
    Case("learning rate as text", lambda d: d.step(learning_rate="high"), ("adam_params.learning_rate", "high")),
    Case("unknown option", lambda d: d.step(nesterov=True), ("adam_params.nesterov", "True")),
    Case("no parameters", lambda d: d.outcome("optim_step", d.ordered()), ("adam_params", "None")),
    Case(
        "another optimizer",
        lambda d: d.outcome("optim_step", d.ordered(optimizer_params={"type": "dimuon", "learning_rate": 1e-4})),
        ("optimizer_params.type", "dimuon", "adamw"),
    ),
]

MODELS = [
    Case("unknown base", lambda d: d.create_model("org/none"), ("base_model", "org/none", "tiny/llama")),
    Case("rank 0", lambda d: d.create_model(rank=0), ("lora_config.rank", "0", "1 to 256")),
    Case("rank 257", lambda d: d.create_model(rank=257), ("lora_config.rank", "257", "1 to 256")),
    Case("rank as text", lambda d: d.create_model(rank="large"), ("lora_config.rank", "large")),
    Case(
        "nothing to train",
        lambda d: d.create_model(train_attn=False, train_mlp=False, train_unembed=False),
        ("lora_config", "train_attn"),
    ),
    Case("dimuon", lambda d: d.create_model(optimizer="dimuon"), ("optimizer_config.type", "dimuon", "adamw")),
    Case(
        "unknown session",
        lambda d: d.outcome("create_model", {"session_id": "nobody", "model_seq_id": 0, "base_model": "tiny/llama"}),
        ("session", "nobody"),
    ),
    Case(
        "unknown model",
        lambda d: d.outcome("forward_backward", d.training_body(datum(), model_id="nobody:train:0")),
        ("model", "nobody:train:0"),
    ),
]

CHECKPOINTS = [
    Case("no path", lambda d: d.load("state"), ("path", "'state'", "tinker://RUN/weights/NAME")),
    Case("unknown checkpoint", lambda d: d.load(f"{d.state}-7"), ("path", "state-7")),
    Case("unknown run", lambda d: d.load("tinker://nobody:train:0/weights/a"), ("path", "nobody:train:0")),
    Case("climbing path", lambda d: d.load("tinker://../weights/a"), ("path", "tinker://RUN/weights/NAME")),
    Case("sampler as a state", lambda d: d.load(d.sampler_path), ("path", "sampler_weights", "weights/NAME")),
    Case("another base", lambda d: d.load(d.state, base_model=QWEN3), ("base_model", QWEN3, "tiny/llama")),
    Case(
        "another base of the same shape",
        lambda d: d.load(d.state, base_model=OTHER_LLAMA),
        ("weights/state", "base model", OTHER_LLAMA, "tiny/llama"),
    ),
    Case("unknown base", lambda d: d.load(d.state, base_model="org/none"), ("base_model", "org/none", "tiny/llama")),
    Case(
        "name with a slash",
        lambda d: d.outcome("save_weights", d.ordered(path="../../up")),
        ("path", "../../up", "letters, digits"),
    ),
    Case(
        "empty name",
        lambda d: d.outcome("save_weights_for_sampler", d.ordered(path="", sampling_session_seq_id=None)),
        ("path", "letters, digits"),
    ),
    Case(
        "name that is taken",
        lambda d: d.outcome("save_weights", d.ordered(path="state")),
        ("state",),
    ),
    Case(
        "lifetime too short",
        lambda d: d.outcome("save_weights", d.ordered(path="brief", ttl_seconds=5)),
        ("ttl_seconds", "5", "3600"),
    ),
    Case("sampler of an unknown base", lambda d: d.create_sampler(base_model="org/none"), ("org/none",), 400),
    Case("sampler of nothing", lambda d: d.create_sampler(), ("model_path", "base_model"), 400),
    Case("sampler of a state", lambda d: d.create_sampler(model_path=d.state), ("model_path", "sampler_weights"), 400),
    Case(
        "sampler of an unknown path",
        lambda d: d.create_sampler(model_path=f"{d.sampler_path}-7"),
        ("model_path", "sampler-7"),
        404,
    ),
]

SAMPLES = [
    Case("empty prompt", lambda d: d.sample([]), ("prompt", "0 tokens")),
    Case("id beyond", lambda d: d.sample([1, V]), ("prompt[1]", str(V), f"0 to {V - 1}")),
    Case("prompt beyond the context", lambda d: d.sample(too_long()), ("prompt", str(N + 1), str(N))),
    Case("prompt without room", lambda d: d.sample([1] * N), ("prompt", str(N), str(N - 1))),
    Case("top_p", lambda d: d.sample(top_p=1.7), ("sampling_params.top_p", "1.7", "0 < top_p <= 1")),
    Case("top_k", lambda d: d.sample(top_k=0), ("sampling_params.top_k", "0", "-1 (no limit) or at least 1")),
    Case("temperature", lambda d: d.sample(temperature=-1.0), ("sampling_params.temperature", "-1.0")),
    Case("NaN temperature", lambda d: d.sample(temperature=NAN), ("sampling_params.temperature", "nan", "finite")),
    Case("max_tokens", lambda d: d.sample(max_tokens=0), ("sampling_params.max_tokens", "0", "at least 1")),
    Case("seed", lambda d: d.sample(seed=2**70), ("sampling_params.seed", "64-bit")),
    Case("stop id beyond", lambda d: d.sample(stop=[V]), ("sampling_params.stop", str(V))),
    Case("empty stop", lambda d: d.sample(stop=""), ("sampling_params.stop", "not empty")),
    Case("no samples", lambda d: d.sample(n=0), ("num_samples", "0", "1 to")),
    Case("too many samples", lambda d: d.sample(n=100_000), ("num_samples", "100000", "1 to")),
    Case("top-k too wide", lambda d: d.sample(topk_prompt_logprobs=10_000), ("topk_prompt_logprobs", "10000", "0 to")),
    Case(
        "targets of another length",
        lambda d: d.sample(target_prompt_logprobs={"data": [1, 2], "dtype": "int64", "shape": [2, 1]}),
        ("target_prompt_logprobs.shape", "[2, 1]", "[3, K]"),
    ),
    Case("unknown sampler", lambda d: d.sample(sampler="nobody:sample:0"), ("sampl", "nobody:sample:0")),
]


def truncated(d: Door) -> httpx.Response:
    """A zstd frame without its end, at a place that was used already, so that it leaves no hole in the order."""
    frame = zstandard.ZstdCompressor().compress(d.training_body(datum(TOKENS * 20), model_id=d.model_id))
    return d.outcome("forward_backward", frame[: len(frame) // 2], **{"Content-Encoding": "zstd"})


def bomb(d: Door) -> httpx.Response:
    """A few kilobytes that would become a gigabyte."""
    compressor = zstandard.ZstdCompressor().compressobj()
    frame = b"".join([compressor.compress(bytes(1 << 20)) for _ in range(1024)]) + compressor.flush()
    assert len(frame) < 1 << 18
    return d.outcome("forward_backward", frame, **{"Content-Encoding": "zstd"})


def with_key(d: Door, key: str | None) -> httpx.Response:
    """The same request with another key, or none."""
    body = {"model_id": d.model_id}
    headers = {} if key is None else {"X-API-Key": key}
    return httpx.post(f"{d.http.base_url}/api/v1/get_info", json=body, headers=headers)


TRANSPORT = [
    Case(
        "malformed protobuf",
        lambda d: d.outcome("forward_backward", b"\xff\xff no protobuf"),
        ("body", "14 bytes", "ForwardBackwardRequest"),
        400,
    ),
    Case("truncated zstd", truncated, ("body", "truncated", "complete"), 400),
    Case(
        "no zstd",
        lambda d: d.outcome("forward_backward", b"plain", **{"Content-Encoding": "zstd"}),
        ("body", "no zstd"),
        400,
    ),
    Case("zstd bomb", bomb, ("body", "bytes", "at most"), 413),
    Case(
        "unknown encoding",
        lambda d: d.outcome("forward_backward", b"x", **{"Content-Encoding": "br"}),
        ("Content-Encoding", "br", "zstd"),
        415,
    ),
    Case("no JSON", lambda d: d.post("optim_step", b"{'a': 1}"), ("body", "JSON"), 400),
    Case("a JSON list", lambda d: d.post("asample", []), ("body", "list", "JSON object"), 400),
    Case("no key", lambda d: with_key(d, None), ("X-API-Key",), 401),
    Case("wrong key", lambda d: with_key(d, "tml-not-a-key-of-yours"), ("X-API-Key",), 401),
    Case("unknown path", lambda d: d.post("forward_bakward", {}), ("forward_bakward",), 404),
    Case(
        "unknown future", lambda d: d.post("retrieve_future", {"request_id": "nobody"}), ("request_id", "nobody"), 404
    ),
]

CASES = {
    f"{group}: {case.name}": case
    for group, cases in {
        "shape": SHAPES,
        "value": VALUES,
        "loss": LOSSES,
        "pair": PAIRS,
        "step": STEPS,
        "model": MODELS,
        "checkpoint": CHECKPOINTS,
        "sample": SAMPLES,
        "transport": TRANSPORT,
    }.items()
    for case in cases
}
