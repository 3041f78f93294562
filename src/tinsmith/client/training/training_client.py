"""`TrainingClient`: one adapter being trained, and all that it can be asked for."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Literal

from tinsmith.client.checkpoints.saved_path import SavedPath
from tinsmith.client.sampling.completions import SampleFuture
from tinsmith.client.sampling.prompts import Params, Prompts, parse_params, parse_prompts
from tinsmith.client.sampling.sampling_client import SamplingClient, SamplingClientKind, refuse_retry_config
from tinsmith.client.sampling.text_sampling import sample_texts
from tinsmith.client.tokenizer.tokenizer import Tokenizer
from tinsmith.client.training.batch_requests import BatchRequests, LossConfig, Pass, merge_loss_config
from tinsmith.client.training.custom_loss import CustomLoss, check_torch
from tinsmith.client.training.model_creation import create_model, creation_body, lora_of
from tinsmith.client.training.ordered_calls import OrderedCalls
from tinsmith.client.training.preference_pairs import TrainingData, check_datums, read_batch
from tinsmith.client.training.training_ops import TrainingOps, find_model_tokenizer, model_name
from tinsmith.client.transport.async_twins import awaiting, submitting
from tinsmith.client.transport.futures import APIFuture, Pending, share, state_of, wait_blocking
from tinsmith.client.transport.opening import open_connection
from tinsmith.client.transport.outcomes import all_ended, peek
from tinsmith.client.transport.session import ClientSession
from tinsmith.types.datum import Datum
from tinsmith.types.errors import TinsmithError, invalid
from tinsmith.types.facts.lineup import EMBEDDED_MODEL
from tinsmith.types.names.ids import training_run_id
from tinsmith.types.names.paths import CheckpointPath
from tinsmith.types.outputs import (
    ForwardBackwardOutput,
    LoadWeightsResponse,
    OptimStepResponse,
    SaveWeightsForSamplerResponse,
    SaveWeightsResponse,
)
from tinsmith.types.params import AdamParams, LoraConfig
from tinsmith.types.responses import GetInfoResponse

# How long `get_info` waits for operations under way, to be able to say that they failed.
_INFO_WAIT_S = 5.0


class TrainingClient(APIFuture["TrainingClient"]):
    """Trains one LoRA adapter, and samples from it.

    `TrainingClient(model_name="meta-llama/Llama-3.1-8B", lora_config={"rank": 32})` makes an adapter in a session of
    its own; `ServiceClient.create_lora_training_client` makes one in the service client's session. Either can be used
    at once; `await client` and `client.result()` give the client itself once the service has made the adapter.

    Methods that train or save return at once, with a future; what they ask for is carried out in the order of the
    calls, each exactly once, whether or not the future is looked at. Their `*_async` twins return the same future.

    Args:
        model_name: the base model, by the name that the service knows; the embedded service takes folders, too.
        lora_config: a `LoraConfig` or a dict of its fields; the default is rank 32 on every layer.
        base_url: the service; None takes `TINSMITH_BASE_URL`, else the embedded service.
        api_key: None takes `TINSMITH_API_KEY`.
        user_metadata: kept with the training run.

    Raises:
        UserError: a name in `lora_config` is unknown or a value has the wrong type.
        TinsmithError: no service can be reached this way.
    """

    def __init__(
        self,
        model_name: str = EMBEDDED_MODEL,
        lora_config: LoraConfig | Mapping[str, Any] | None = None,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        user_metadata: dict[str, str] | None = None,
    ) -> None:
        body = creation_body(model_name, lora_of(lora_config), user_metadata)
        self._begin(ClientSession(open_connection(base_url, api_key)), "create_model", body, owns_session=True)

    @classmethod
    def create(cls, session: ClientSession, path: str, body: dict[str, Any]) -> TrainingClient:
        """Make a client in a session.

        Args:
            session: it will belong to.
            path: `create_model` or `load_weights`.
            body: of the request, without its ids.
        """
        self = cls.__new__(cls)
        self._begin(session, path, body, owns_session=False)
        return self

    def _begin(self, session: ClientSession, path: str, body: dict[str, Any], *, owns_session: bool) -> None:
        self._session = session
        self._owns_session = owns_session
        self._model_seq_id = next(session.model_seq_ids)
        self._asked = body
        made_by = "create_lora_training_client" if path == "create_model" else "create_training_client_from_state"
        creating = session.submit_lasting(create_model(session, self._model_seq_id, path, body))
        self._created = session.connection.outcomes.watch(creating, made_by)
        ordered = self._ordered = OrderedCalls(session, self._created)
        self._batches = BatchRequests(ordered)
        self._ops = TrainingOps(ordered)
        self._ready: Future[TrainingClient] | None = None
        # Forgetting the last snapshot and submitting what outdates it are one act: a `sample` of another thread comes
        # before both, with the old weights, or after both.
        self._lock = threading.RLock()
        self._snapshot: SamplingClient | None = None

    def future(self) -> Future[TrainingClient]:
        """Return the `concurrent.futures.Future` of the client itself, once its adapter is made."""
        if self._ready is None:
            creation = self._created.outcome
            self._ready = self._session.connection.submit_operation(self._when_ready(), creation.operation, creation)
        return self._ready

    async def _when_ready(self) -> TrainingClient:
        await peek(self._created)
        return self

    def __repr__(self) -> str:
        facts: dict[str, Any] = {key: self._asked[key] for key in ("base_model", "path") if key in self._asked}
        if "lora_config" in self._asked:
            facts["rank"] = self._asked["lora_config"]["rank"]
        state = state_of(self._created)
        if state == "done":
            info = self._created.peek()
            facts = {"base_model": model_name(info), "rank": info.lora_rank, "model_id": info.model_id}
        record = self._ordered.record
        failed = len(record.failures())
        facts |= {"steps": record.steps} | ({"failed_operations": failed} if failed else {})
        told = ", ".join(f"{key}={value!r}" for key, value in facts.items())
        return f"TrainingClient({told}{'' if state == 'done' else f', creation {state}'})"

    # -- training -----------------------------------------------------------------------------------------------------

    def forward(
        self, data: TrainingData, loss_fn: str, loss_fn_config: LossConfig | None = None, **config: float | str
    ) -> APIFuture[ForwardBackwardOutput]:
        """Compute logprobs and loss without gradients; arguments as for `forward_backward`."""
        asked = Pass(loss_fn, merge_loss_config(loss_fn_config, config), forward_only=True)
        return Pending(self._batches.run(read_batch(data, loss_fn), asked))

    forward_async = submitting(forward)

    def forward_backward(
        self, data: TrainingData, loss_fn: str, loss_fn_config: LossConfig | None = None, **config: float | str
    ) -> APIFuture[ForwardBackwardOutput]:
        """Compute the loss and add its gradient to what is accumulated since the last `optim_step`.

        `dpo`, `ipo` and `simpo` train on preference pairs, which may be passed in three forms: datums in turn (chosen,
        rejected, chosen, ...), `PreferencePair` objects, or rows `{"prompt", "chosen", "rejected"}` of texts or
        messages (see `preference_pairs`). `reference="base"` or `reference="tinker://..."` names what `dpo` and `ipo`
        measure against; the run keeps it, and its states do, until another is named. Where the service has no such
        loss, it is computed here through `forward_backward_custom`.

        Args:
            data: the batch; losses are sums over its tokens, or over its pairs.
            loss_fn: name of a loss of the service; `docs/losses.md` has the formulas.
            loss_fn_config: the loss's parameters.
            config: the same as keywords, e.g. `dpo_beta=0.1`.

        Returns:
            A future of logprobs per datum (float32, of the shape of its target_tokens) and metrics (`loss:sum`, ...).
            Of pairs also `ref_logprobs` per datum, in the order chosen, rejected, ..., and as means over the pairs
            `accuracy:mean`, `margin:mean`, `chosen_reward:mean` and `rejected_reward:mean`.

        Raises:
            UserError: the batch is empty or mixes forms, a row lacks a field, datums of pairs are odd in number, or a
                parameter is given twice or is neither number nor text.
        """
        asked = Pass(loss_fn, merge_loss_config(loss_fn_config, config), forward_only=False)
        return Pending(self._batches.run(read_batch(data, loss_fn), asked))

    forward_backward_async = submitting(forward_backward)

    def forward_backward_custom(
        self, data: Sequence[Datum], loss_fn: CustomLoss, *, loss_type_input: Literal["logprobs"] | None = None
    ) -> APIFuture[ForwardBackwardOutput]:
        """Compute the gradient of a loss of your own, a function of the logprobs of the batch's target tokens.

        The logprobs come here, `loss_fn` runs here under autograd, and its gradient goes back as the weights of a
        cross-entropy: two passes on the service. If anything fails on the way, the next `optim_step` fails, too, and
        clears what was accumulated.

        Args:
            data: the batch; `loss_fn` sees all of it, the service the target tokens (and weights) only.
            loss_fn: from (data, list of float32 tensors, one per datum, of the shape of its target_tokens) to
                (scalar tensor, dict of metrics).
            loss_type_input: always logprobs.

        Returns:
            A future of the logprobs, with `loss:sum` your loss, your metrics, and `surrogate_loss:sum` the service's.

        Raises:
            TinsmithError: torch is not installed.
            UserError: the batch is empty or a datum has no target_tokens.
        """
        if loss_type_input not in (None, "logprobs"):
            raise invalid("loss_type_input", loss_type_input, "'logprobs'")
        check_torch()
        return Pending(self._batches.run_custom(check_datums(data), loss_fn))

    forward_backward_custom_async = submitting(forward_backward_custom)

    def optim_step(
        self, optim_params: AdamParams | None = None, *, adam_params: AdamParams | None = None
    ) -> APIFuture[OptimStepResponse]:
        """Take one AdamW step on the accumulated gradients, and clear them.

        Args:
            optim_params: how; None takes the default parameters with the course's learning rate for the model
                (`tinsmith.types.facts.learning_rate`).
            adam_params: the same, by its other name.

        Raises:
            UserError: both are given, or something else than `AdamParams`.
        """
        if optim_params is not None and adam_params is not None:
            raise invalid("optim_step.adam_params", "both optim_params and adam_params", "one of them")
        params = optim_params or adam_params
        if params is not None and not isinstance(params, AdamParams):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise invalid("optim_step.optim_params", params, "AdamParams")
        with self._lock:
            self._snapshot = None
            return Pending(self._ops.step(params))

    optim_step_async = submitting(optim_step)

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def save_state(
        self,
        name: str | None = None,
        ttl_seconds: int | None = None,
        overwrite: bool = False,
        user_metadata: dict[str, str] | None = None,
    ) -> SavedPath[SaveWeightsResponse]:
        """Save weights and optimizer, to resume from.

        Args:
            name: letters, digits, '_', '-' and '.'; None takes `auto-0`, `auto-1`, ...
            ttl_seconds: lifetime; None keeps it for ever.
            overwrite: replace a checkpoint of that name.
            user_metadata: kept with the checkpoint.

        Returns:
            The checkpoint's address, a `str` that is also the future of its being saved.

        Raises:
            UserError: the name has other characters.
        """
        fields = {"ttl_seconds": ttl_seconds, "overwrite": overwrite, "user_metadata": user_metadata}
        return self._ops.save(self.model_id, "weights", name, SaveWeightsResponse, fields)

    async def save_state_async(
        self,
        name: str | None = None,
        ttl_seconds: int | None = None,
        overwrite: bool = False,
        user_metadata: dict[str, str] | None = None,
    ) -> SavedPath[SaveWeightsResponse]:
        """Asynchronous twin of `save_state`; arguments and result are the same."""
        # Written out, because the address begins with the session's id, and `save_state` would block to wait for it.
        await self._session.id()
        return self.save_state(name, ttl_seconds, overwrite, user_metadata)

    def save_weights_for_sampler(
        self, name: str | None = None, ttl_seconds: int | None = None, user_metadata: dict[str, str] | None = None
    ) -> SavedPath[SaveWeightsForSamplerResponse]:
        """Save the weights alone, to sample from; arguments and result as for `save_state`."""
        fields = {"ttl_seconds": ttl_seconds, "kind": "snapshot", "user_metadata": user_metadata}
        return self._ops.save(self.model_id, "sampler_weights", name, SaveWeightsForSamplerResponse, fields)

    async def save_weights_for_sampler_async(
        self, name: str | None = None, ttl_seconds: int | None = None, user_metadata: dict[str, str] | None = None
    ) -> SavedPath[SaveWeightsForSamplerResponse]:
        """Asynchronous twin of `save_weights_for_sampler`; arguments and result are the same."""
        await self._session.id()
        return self.save_weights_for_sampler(name, ttl_seconds, user_metadata)

    def load_state(
        self, path: str, weights_access_token: str | None = None, *, with_optimizer: bool = True
    ) -> APIFuture[LoadWeightsResponse]:
        """Load a training state into this client, in place of what it has.

        Args:
            path: of `save_state`, of this run or of another with the same base and adapter shape.
            weights_access_token: a key of the checkpoint's owner, where that is somebody else.
            with_optimizer: load the optimizer, too, so that training goes on as if it had never stopped. False loads
                the weights only, with a fresh optimizer, as `ServiceClient.create_training_client_from_state` does.

        Raises:
            UserError: it is no checkpoint path.
        """
        CheckpointPath.parse(path)
        with self._lock:
            self._snapshot = None
            return Pending(self._ops.load(path, with_optimizer, weights_access_token))

    load_state_async = submitting(load_state)

    def load_state_with_optimizer(
        self, path: str, weights_access_token: str | None = None
    ) -> APIFuture[LoadWeightsResponse]:
        """Load a training state, weights and optimizer; the same as `load_state(path)`."""
        return self.load_state(path, weights_access_token, with_optimizer=True)

    load_state_with_optimizer_async = submitting(load_state_with_optimizer)

    # -- sampling -----------------------------------------------------------------------------------------------------

    def sample(self, prompts: Prompts, params: Params | None = None, *, num_samples: int | None = None) -> SampleFuture:
        """Sample from the current weights: whatever was submitted before applies.

        Args:
            prompts: one or several; each a text, a `ModelInput` or token ids.
            params: `SamplingParams`, or a dict of temperature, max_tokens, stop, top_p, top_k, seed and n.
            num_samples: completions of each prompt, where `params` does not say.

        Returns:
            A future of `Completions`, a flat list of `Completion` (`str` with tokens and logprobs), prompt by prompt;
            it can be iterated, indexed and measured itself, which waits.

        Raises:
            UserError: a parameter is unknown or has the wrong type, or there is no prompt.
        """
        asked = parse_prompts(prompts)
        how, count = parse_params(params, num_samples)
        sampling = sample_texts(self._current(), asked, how, count)
        work = self._session.connection.submit_operation(sampling, "sample", self._created.outcome)
        return SampleFuture(work, len(asked) * count)

    sample_async = submitting(sample)

    def _current(self) -> SamplingClient:
        """Return a sampler of the current weights; nothing is sent where the last one still is."""
        # Under the lock from the look to the new snapshot: two threads that sample at once share one.
        with self._lock:
            last = self._snapshot
            if last is None or last.failed:
                last = self._snapshot = self.save_weights_and_get_sampling_client()
            return last

    def save_weights_and_get_sampling_client(
        self,
        name: str | None = None,
        retry_config: None = None,
        record_stability_info: bool = False,
        kind: SamplingClientKind = "snapshot",
    ) -> SamplingClient:
        """Take a snapshot of the weights and return a client that samples from it.

        Args:
            name: has no effect: a snapshot has no address, and ends with its client (`SamplingClient.close`).
            retry_config: not offered: the client retries by itself.
            record_stability_info: let the service keep what is sampled, until the session ends or a day after its last
                use, for losses that name it (`stable_reinforce`, by `Datum.with_provenance`).
            kind: `snapshot`; what else a service offers.
        """
        refuse_retry_config(retry_config)
        return SamplingClient(self._session, self._ops.snapshot(kind), record_stability_info=record_stability_info)

    save_weights_and_get_sampling_client_async = awaiting(save_weights_and_get_sampling_client)

    def create_sampling_client(
        self, model_path: str, retry_config: None = None, record_stability_info: bool = False
    ) -> SamplingClient:
        """Return a client that samples from saved weights; arguments as of `ServiceClient.create_sampling_client`."""
        refuse_retry_config(retry_config)
        return SamplingClient.create(self._session, model_path=model_path, record_stability_info=record_stability_info)

    create_sampling_client_async = awaiting(create_sampling_client)

    # -- facts --------------------------------------------------------------------------------------------------------

    @property
    def model_id(self) -> str:
        """Id of the adapter, which is the id of the training run; known as soon as the session is."""
        return training_run_id(self._session.id_blocking(), self._model_seq_id)

    def get_info(self) -> GetInfoResponse:
        """Return the model's facts; waits until its adapter is made, asks only once.

        Warns where training operations submitted before have failed; for those that are running it waits up to five
        seconds to know.
        """
        return wait_blocking(self._session.submit(self.get_info_async()))

    async def get_info_async(self) -> GetInfoResponse:
        """Asynchronous twin of `get_info`."""
        info = await share(self._created)
        record = self._ordered.record
        await all_ended(record.running(), _INFO_WAIT_S)
        record.tell("get_info", record.position)
        return info

    def get_tokenizer(self) -> Tokenizer:
        """Return the tokenizer of the base model."""
        return wait_blocking(self._session.submit(self._tokenizer()))

    async def _tokenizer(self) -> Tokenizer:
        await share(self._created)  # raised here, an error has been seen
        return await find_model_tokenizer(self._created, self._session.connection)

    # -- end ----------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Wait for what was submitted and end the session, where this client has one of its own.

        Raises:
            TinsmithError: the session is a `ServiceClient`'s, which ends it.
        """
        if not self._owns_session:
            raise TinsmithError("this TrainingClient belongs to a ServiceClient: close that one")
        self._session.drain()
        self._session.finish("success")

    def __enter__(self) -> TrainingClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._owns_session:
            self._session.leave(error)
