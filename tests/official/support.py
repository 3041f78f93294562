"""How each public method of the official clients is called and what comes of it: the source of the support table."""

from __future__ import annotations

import asyncio
import inspect
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tinker
import torch
from tinker import ModelInput, SamplingParams
from tinker.lib.api_future_impl import QueueState

from tests.official.batches import LOSS_CASES, batch_for, pairs, sampled_datums, supervised
from tests.support.live_server import LLAMA, LiveServer, model_folder

CLIENTS = ("ServiceClient", "TrainingClient", "SamplingClient", "RestClient", "AdminClient")
PROMPT = ModelInput.from_ints([1, 2, 3])
SHORT = SamplingParams(max_tokens=2, seed=1)
DATA = supervised((6, 4))

Call = Callable[..., Any]


class World:
    """Clients, and things for them to act upon."""

    def __init__(self, server: LiveServer) -> None:
        self.server = server
        self.service = server.service()
        # Named by its folder, so that the SDK finds the tokenizer without a hub.
        self.training = self.service.create_lora_training_client(str(model_folder(LLAMA)), rank=4).result(timeout=60)
        self.sampling = self.training.save_weights_and_get_sampling_client().result(timeout=60)
        self.rest = tinker.RestClient(base_url=server.url, api_key=server.key)
        self.admin = tinker.AdminClient(base_url=server.url, api_key=server.key)
        self._numbers = itertools.count()
        self.state = self.new_state()
        self.sampler_path = self.training.save_weights_for_sampler("sampler").result(timeout=60).path

    def client(self, name: str) -> Any:
        """Return the client of a class."""
        return {
            "ServiceClient": self.service,
            "TrainingClient": self.training,
            "SamplingClient": self.sampling,
            "RestClient": self.rest,
            "AdminClient": self.admin,
        }[name]

    def name(self) -> str:
        """Return a checkpoint name that is free."""
        return f"n{next(self._numbers)}"

    def new_state(self) -> str:
        """Save a state and return its path."""
        return self.training.save_state(self.name()).result(timeout=60).path

    @property
    def session_id(self) -> str:
        """The id of the session."""
        return self.service.holder.get_session_id()


@dataclass(frozen=True)
class Probe:
    """One call.

    Attributes:
        run: makes it, with the method as its first argument.
        refused: what the error's message must hold; None where the call must succeed.
        note: for the table.
    """

    run: Callable[[Call, World], Any]
    refused: str | None = None
    note: str = ""


def plain(call: Call) -> Call:
    """Make a method wait for its result."""

    def waiting(*args: Any, **kwargs: Any) -> Any:
        result = call(*args, **kwargs)
        return result.result(timeout=60) if hasattr(result, "result") else result

    return waiting


def asynchronous(call: Call) -> Call:
    """Make an `_async` twin wait for its result; some answer a future, which is awaited too."""

    def waiting(*args: Any, **kwargs: Any) -> Any:
        async def run() -> Any:
            result = await call(*args, **kwargs)
            return await result if inspect.isawaitable(result) else result

        return asyncio.run(run())

    return waiting


def methods(name: str) -> dict[str, str | None]:
    """Return the public methods of a client, each with its `_async` twin; a twin has no row of its own."""
    cls = getattr(tinker, name)
    found = [m for m in dir(cls) if not m.startswith("_") and callable(getattr(cls, m))]
    twins = {m for m in found if m.endswith("_async") and m.removesuffix("_async") in found}
    return {m: f"{m}_async" if f"{m}_async" in twins else None for m in found if m not in twins}


def _custom(data: list[tinker.Datum], logprobs: list[torch.Tensor]) -> tuple[torch.Tensor, dict[str, float]]:
    return -torch.cat(logprobs).sum(), {}


def _traced(logprobs: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    return -logprobs.sum(), {"custom/positions:sum": (logprobs * 0 + 1).sum()}


def _close(call: Call, world: World) -> None:
    other = world.server.service()
    assert other.holder.get_session_id()
    other.close("success").result(timeout=60)


def _traced_loss(call: Call, world: World) -> None:
    handle = call(_traced, {"logprobs": 1})
    output = world.training.forward_backward_custom(DATA, handle).result(timeout=60)
    assert output.metrics["custom/positions:sum"] == 10


UNSUPPORTED = "not supported by this service"
LOADED = "the checkpoint is loaded as a new run"
SDK_ONLY = "no request to the service"

SERVICE = {
    "close": Probe(_close),
    "copy_weights": Probe(lambda call, w: call(w.state), "project", "projects are not served"),
    "create_custom_loss": Probe(_traced_loss, note="traced and run by the SDK; uploading a loss is not offered"),
    "create_lora_training_client": Probe(lambda call, w: call(LLAMA, rank=4)),
    "create_rest_client": Probe(lambda call, w: call(), note=SDK_ONLY),
    "create_sampling_client": Probe(lambda call, w: (call(base_model=LLAMA), call(model_path=w.sampler_path))),
    "create_training_client_from_state": Probe(lambda call, w: call(w.state), note=LOADED),
    "create_training_client_from_state_with_optimizer": Probe(lambda call, w: call(w.state), note=LOADED),
    "get_console_url": Probe(lambda call, w: call(), note=f"{SDK_ONLY}; points to the vendor's console"),
    "get_server_capabilities": Probe(lambda call, w: call()),
    "get_telemetry": Probe(lambda call, w: call(), note=f"{SDK_ONLY}; telemetry is accepted and dropped"),
}
TRAINING = {
    "create_sampling_client": Probe(lambda call, w: call(w.sampler_path)),
    "forward": Probe(lambda call, w: call(DATA, "cross_entropy")),
    "forward_backward": Probe(lambda call, w: call(DATA, "cross_entropy")),
    "forward_backward_custom": Probe(lambda call, w: call(DATA, _custom), note="the loss runs client-side"),
    "get_console_url": SERVICE["get_console_url"],
    "get_info": Probe(lambda call, w: call()),
    "get_telemetry": SERVICE["get_telemetry"],
    "get_tokenizer": Probe(lambda call, w: call().encode("a"), note="loaded by the SDK: a folder or a hub id"),
    "load_state": Probe(lambda call, w: call(w.state), note="at any moment, into a model of the same shape"),
    "load_state_with_optimizer": Probe(lambda call, w: call(w.state), note="as `load_state`"),
    "optim_step": Probe(lambda call, w: call(tinker.AdamParams(learning_rate=1e-5))),
    "save_state": Probe(lambda call, w: call(w.name())),
    "save_weights_and_get_sampling_client": Probe(lambda call, w: call()),
    "save_weights_external": Probe(
        lambda call, w: call(w.name()), UNSUPPORTED, "`tinsmith checkpoint export` writes a PEFT folder"
    ),
    "save_weights_for_sampler": Probe(lambda call, w: call(w.name())),
}
SAMPLING = {
    "compute_logprobs": Probe(lambda call, w: call(PROMPT)),
    "create": Probe(lambda call, w: call(w.service.holder, base_model=LLAMA)),
    "from_sampler_handle": Probe(lambda call, w: call(w.sampling.get_sampler_handle(), api_key=w.server.key)),
    "get_base_model": Probe(lambda call, w: call(), note=SDK_ONLY),
    "get_sampler_handle": Probe(lambda call, w: call(), note=SDK_ONLY),
    "get_telemetry": SERVICE["get_telemetry"],
    "get_tokenizer": TRAINING["get_tokenizer"],
    "on_queue_state_change": Probe(lambda call, w: call(QueueState.ACTIVE, None), note="called by the SDK itself"),
    "sample": Probe(lambda call, w: call(PROMPT, 2, SHORT)),
}
REST = {
    "assign_session_project": Probe(lambda call, w: call(w.session_id, "p"), UNSUPPORTED, "projects are not served"),
    "copy_weights": Probe(lambda call, w: call(w.state, "p"), UNSUPPORTED, "projects are not served"),
    "delete_checkpoint": Probe(
        lambda call, w: call(w.training.model_id, "/".join(w.new_state().split("/")[-2:])),
    ),
    "delete_checkpoint_from_tinker_path": Probe(lambda call, w: call(w.new_state())),
    "export_session_trace": Probe(lambda call, w: call(w.session_id), UNSUPPORTED),
    "get_audit_log": Probe(lambda call, w: call(), UNSUPPORTED),
    "get_billing_usage": Probe(lambda call, w: call("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"), UNSUPPORTED),
    "get_current_checkpoint_storage_usage": Probe(lambda call, w: call(), UNSUPPORTED),
    "get_external_weights_urls": Probe(
        lambda call, w: call(w.state.replace("/weights/", "/external_weights/")),
        UNSUPPORTED,
        "`tinsmith checkpoint export` writes a PEFT folder",
    ),
    "get_sampler": Probe(lambda call, w: call(w.sampling._sampling_session_id)),
    "get_server_capabilities": Probe(lambda call, w: call()),
    "get_session": Probe(lambda call, w: call(w.session_id)),
    "get_telemetry": SERVICE["get_telemetry"],
    "get_training_run": Probe(lambda call, w: call(w.training.model_id)),
    "get_training_run_by_tinker_path": Probe(lambda call, w: call(w.state)),
    "get_weights_info_by_tinker_path": Probe(lambda call, w: call(w.state)),
    "list_checkpoints": Probe(lambda call, w: call(w.training.model_id)),
    "list_sessions": Probe(lambda call, w: call()),
    "list_training_runs": Probe(lambda call, w: call()),
    "list_user_checkpoints": Probe(lambda call, w: call()),
    "publish_checkpoint_from_tinker_path": Probe(lambda call, w: call(w.state), note="twice is no error"),
    "search_sessions": Probe(
        lambda call, w: call(tinker.types.SessionSearchRequest()),
        UNSUPPORTED,
    ),
    "set_checkpoint_ttl_from_tinker_path": Probe(lambda call, w: (call(w.state, 7200), call(w.state, None))),
    "unpublish_checkpoint_from_tinker_path": Probe(lambda call, w: call(w.state), note="twice is no error"),
    "whoami": Probe(lambda call, w: call(), "JWT", "the SDK reads it from a JWT; keys here are plain"),
}
ADMIN = {name: REST[name] for name in methods("AdminClient")}

PROBES = dict(zip(CLIENTS, (SERVICE, TRAINING, SAMPLING, REST, ADMIN), strict=True))


def _loss(case: str) -> Probe:
    loss_fn, config = LOSS_CASES[case]
    return Probe(lambda call, w: plain(w.training.forward_backward)(batch_for(case, (5, 9)), loss_fn, config))


def _named(world: World, recorded: bool = False) -> list[tinker.Datum]:
    sampler = plain(world.training.save_weights_and_get_sampling_client)(record_stability_info=recorded)
    return sampled_datums(PROMPT.to_ints(), plain(sampler.sample)(PROMPT, 2, SHORT))


def _stable_reinforce(call: Call, world: World) -> None:
    data = _named(world, recorded=True)
    plain(world.training.forward_backward)(data, "stable_reinforce")


def _sample(**options: Any) -> Probe:
    return Probe(lambda call, w: plain(w.sampling.sample)(PROMPT, 1, SHORT, **options))


OPTIONS = {
    **{
        f'loss_fn="{case}"': _loss(case)
        for case in ("cross_entropy", "importance_sampling", "ppo", "cispo", "dro", "gspo")
    },
    'loss_fn="cross_entropy", 2-D targets': _loss("cross_entropy_2d"),
    'loss_fn="stable_reinforce"': Probe(_stable_reinforce, note="the loss is ours, see [losses](losses.md)"),
    'loss_fn="dpo"': Probe(
        lambda call, w: plain(w.training.forward_backward)(pairs([(3, 2, 4)]), "dpo", {"dpo_beta": 0.1}),
        note="chosen and rejected datums in turn; so `ipo` and `simpo`, see [losses](losses.md#preference-pairs)",
    ),
    "sample(include_prompt_logprobs=True)": _sample(include_prompt_logprobs=True),
    "sample(topk_prompt_logprobs=3)": _sample(topk_prompt_logprobs=3),
    "sample(topk_sample_logprobs=3)": _sample(topk_sample_logprobs=3),
    "sample(target_prompt_logprobs=…)": _sample(
        target_prompt_logprobs=tinker.TensorData(data=[1, 2], dtype="int64", shape=[2, 1])
    ),
    "sample(prompt_alt_tokens_k=2)": _sample(prompt_alt_tokens_k=2),
    "sample(prompt_logprobs_last_n=1)": _sample(include_prompt_logprobs=True, prompt_logprobs_last_n=1),
    "create_sampling_client(record_stability_info=True)": Probe(
        lambda call, w: plain(
            plain(w.service.create_sampling_client)(base_model=LLAMA, record_stability_info=True).sample
        )(PROMPT, 1, SHORT),
        note="kept until the session ends or a day after the last use",
    ),
    "Datum.with_provenance": Probe(
        lambda call, w: plain(w.training.forward_backward)(_named(w), "importance_sampling"),
        note="read by `stable_reinforce`, whose sequences must be recorded ones; taken by every loss",
    ),
    'save_weights_and_get_sampling_client(kind="inflight")': Probe(
        lambda call, w: plain(w.training.save_weights_and_get_sampling_client)(kind="inflight"), "kind"
    ),
    "create_lora_training_client(optimizer=DimuonOptimizerConfig())": Probe(
        lambda call, w: plain(w.service.create_lora_training_client)(LLAMA, optimizer=tinker.DimuonOptimizerConfig()),
        "dimuon",
    ),
    "save_state(ttl_seconds=…, overwrite=True, user_metadata=…)": Probe(
        lambda call, w: plain(w.training.save_state)(
            w.name(), ttl_seconds=7200, overwrite=True, user_metadata={"a": "b"}
        )
    ),
    "save_weights_for_sampler(ttl_seconds=…, user_metadata=…)": Probe(
        lambda call, w: plain(w.training.save_weights_for_sampler)(w.name(), ttl_seconds=7200, user_metadata={"a": "b"})
    ),
    "create_training_client_from_state(base_model=…)": Probe(
        lambda call, w: plain(w.service.create_training_client_from_state)(w.state, base_model=LLAMA),
        note="another name of the same weights",
    ),
}


def render() -> str:
    """Return docs/official-sdk.md."""
    lines = [
        "# The official SDK against `tinsmith serve`",
        "",
        f"What each public method of `tinker` {tinker.__version__} does here. The page is written by a test that",
        "calls every one of them (`tests/official/test_support_table.py`); it fails when the page is out of date.",
        "*Supported* calls succeed, *refused* ones raise an error that says so. Where the SDK has an `_async` twin",
        "of a method, the twin was called too and does the same.",
        "",
        "```python",
        "import tinker",
        "",
        "service = tinker.ServiceClient()  # TINKER_BASE_URL and TINKER_API_KEY, which `tinsmith serve` prints",
        "model = service.get_server_capabilities().supported_models[0].model_name  # or the name that you serve it by",
        "training = service.create_lora_training_client(model, rank=32)",
        "print(training.get_info())",
        "```",
    ]
    for client, probes in PROBES.items():
        lines += ["", f"## {client}", "", "| method | `_async` twin | here | note |", "|---|---|---|---|"]
        for name, twin in methods(client).items():
            lines.append(f"| `{name}` | {'yes' if twin else ''} | {_verdict(probes[name])} | {probes[name].note} |")
    lines += ["", "## Options", "", "| option | here | note |", "|---|---|---|"]
    lines += [f"| `{name}` | {_verdict(probe)} | {probe.note} |" for name, probe in OPTIONS.items()]
    return "\n".join(lines).replace("|  |", "| |") + "\n"


def _verdict(probe: Probe) -> str:
    return "supported" if probe.refused is None else "refused"
