"""`TrainingClient`: one adapter being trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Literal

from tinsmith.client.checkpoints.saved_path import SavedPath
from tinsmith.client.sampling.completions import SampleFuture
from tinsmith.client.sampling.prompts import Params, Prompts
from tinsmith.client.sampling.sampling_client import SamplingClient, SamplingClientKind
from tinsmith.client.training.custom_loss import CustomLoss
from tinsmith.client.training.model_creation import creation_body, lora_of
from tinsmith.client.training.training_calls import LossConfig, TrainingCalls
from tinsmith.client.transport.futures import APIFuture, share
from tinsmith.client.transport.opening import open_connection
from tinsmith.client.transport.session import ClientSession
from tinsmith.types.datum import Datum
from tinsmith.types.errors import TinsmithError
from tinsmith.types.lineup import EMBEDDED_MODEL
from tinsmith.types.outputs import (
    ForwardBackwardOutput,
    LoadWeightsResponse,
    OptimStepResponse,
    SaveWeightsForSamplerResponse,
    SaveWeightsResponse,
)
from tinsmith.types.params import AdamParams, LoraConfig
from tinsmith.types.responses import GetInfoResponse


class TrainingClient(TrainingCalls, APIFuture["TrainingClient"]):
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
        super().__init__(session, path, body)
        self._owns_session = owns_session
        self._ready: Future[TrainingClient] | None = None

    def future(self) -> Future[TrainingClient]:
        """Return the `concurrent.futures.Future` of the client itself, once its adapter is made."""
        if self._ready is None:
            self._ready = self._session.submit(self._when_ready())
        return self._ready

    async def _when_ready(self) -> TrainingClient:
        await share(self._created)
        return self

    # -- asynchronous twins -------------------------------------------------------------------------------------------

    async def forward_async(
        self, data: Sequence[Datum], loss_fn: str, loss_fn_config: LossConfig | None = None, **config: float | str
    ) -> APIFuture[ForwardBackwardOutput]:
        """Submit a `forward` and return its future."""
        return self.forward(data, loss_fn, loss_fn_config, **config)

    async def forward_backward_async(
        self, data: Sequence[Datum], loss_fn: str, loss_fn_config: LossConfig | None = None, **config: float | str
    ) -> APIFuture[ForwardBackwardOutput]:
        """Submit a `forward_backward` and return its future."""
        return self.forward_backward(data, loss_fn, loss_fn_config, **config)

    async def forward_backward_custom_async(
        self, data: Sequence[Datum], loss_fn: CustomLoss, *, loss_type_input: Literal["logprobs"] | None = None
    ) -> APIFuture[ForwardBackwardOutput]:
        """Submit a `forward_backward_custom` and return its future."""
        return self.forward_backward_custom(data, loss_fn, loss_type_input=loss_type_input)

    async def optim_step_async(
        self, optim_params: AdamParams | None = None, *, adam_params: AdamParams | None = None
    ) -> APIFuture[OptimStepResponse]:
        """Submit an `optim_step` and return its future."""
        return self.optim_step(optim_params, adam_params=adam_params)

    async def save_state_async(
        self,
        name: str | None = None,
        ttl_seconds: int | None = None,
        overwrite: bool = False,
        user_metadata: dict[str, str] | None = None,
    ) -> SavedPath[SaveWeightsResponse]:
        """Submit a `save_state` and return its address, which is its future."""
        await self._session.id()
        return self.save_state(name, ttl_seconds, overwrite, user_metadata)

    async def save_weights_for_sampler_async(
        self, name: str | None = None, ttl_seconds: int | None = None, user_metadata: dict[str, str] | None = None
    ) -> SavedPath[SaveWeightsForSamplerResponse]:
        """Submit a `save_weights_for_sampler` and return its address, which is its future."""
        await self._session.id()
        return self.save_weights_for_sampler(name, ttl_seconds, user_metadata)

    async def load_state_async(
        self, path: str, weights_access_token: str | None = None, *, with_optimizer: bool = True
    ) -> APIFuture[LoadWeightsResponse]:
        """Submit a `load_state` and return its future."""
        return self.load_state(path, weights_access_token, with_optimizer=with_optimizer)

    async def load_state_with_optimizer_async(
        self, path: str, weights_access_token: str | None = None
    ) -> APIFuture[LoadWeightsResponse]:
        """Submit a `load_state_with_optimizer` and return its future."""
        return self.load_state_with_optimizer(path, weights_access_token)

    async def sample_async(
        self, prompts: Prompts, params: Params | None = None, *, num_samples: int | None = None
    ) -> SampleFuture:
        """Submit a `sample` and return its future."""
        return self.sample(prompts, params, num_samples=num_samples)

    async def save_weights_and_get_sampling_client_async(
        self,
        name: str | None = None,
        retry_config: None = None,
        record_stability_info: bool = False,
        kind: SamplingClientKind = "snapshot",
    ) -> SamplingClient:
        """Take a snapshot and return its client once it is ready."""
        return await self.save_weights_and_get_sampling_client(name, retry_config, record_stability_info, kind)

    async def create_sampling_client_async(
        self, model_path: str, retry_config: None = None, record_stability_info: bool = False
    ) -> SamplingClient:
        """Return a client of saved weights once it is ready."""
        return await self.create_sampling_client(model_path, retry_config, record_stability_info)

    async def get_info_async(self) -> GetInfoResponse:
        """Return the model's facts."""
        return await share(self._created)

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
