"""`ServiceClient`: where everything begins."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Literal

from tinsmith.client.checkpoints.rest_client import RestClient
from tinsmith.client.sampling.sampling_client import SamplingClient, refuse_retry_config
from tinsmith.client.tokenizer.tokenizer import Tokenizer
from tinsmith.client.tokenizer.tokenizer_sources import find_tokenizer
from tinsmith.client.training.model_creation import creation_body
from tinsmith.client.training.training_client import TrainingClient
from tinsmith.client.transport.async_twins import awaiting
from tinsmith.client.transport.futures import wait_blocking
from tinsmith.client.transport.opening import open_connection
from tinsmith.client.transport.session import ClientSession, FinishStatus
from tinsmith.types.errors import UserError, invalid
from tinsmith.types.names.paths import CheckpointPath
from tinsmith.types.params import AdamOptimizerConfig, LoraConfig
from tinsmith.types.requests import CreateSessionRequest
from tinsmith.types.responses import GetServerCapabilitiesResponse, SupportedModel
from tinsmith.version import __version__


class ServiceClient:
    """A session with a service: makes training and sampling clients, and lists models.

    `ServiceClient()` takes the service that `TINSMITH_BASE_URL` names; unset, the service runs inside this process.
    Nothing is sent until something is asked for. As a context manager it ends the session, telling how.

    Args:
        user_metadata: kept with the session.
        project_id: kept with the session; this service knows no projects.
        display_name: a name for the session in listings.
        base_url: where the service is; None takes the environment's.
        api_key: None takes `TINSMITH_API_KEY` or `TINKER_API_KEY`.
        default_headers_overrides: further headers of every request.

    Raises:
        UserError: `base_url` is no URL.
        TinsmithError: no URL was given and the packages of the service are not installed.
    """

    def __init__(
        self,
        user_metadata: dict[str, Any] | None = None,
        project_id: str | None = None,
        *,
        display_name: str | None = None,
        base_url: str | None = None,
        api_key: str | None = None,
        default_headers_overrides: Mapping[str, str] | None = None,
    ) -> None:
        request = CreateSessionRequest(
            user_metadata=user_metadata or {},
            project_id=project_id,
            display_name=display_name,
            sdk_version=__version__,
        )
        self._session = ClientSession(open_connection(base_url, api_key, default_headers_overrides), request)

    def __repr__(self) -> str:
        return f"ServiceClient({self._session.connection.address})"

    # -- training clients ---------------------------------------------------------------------------------------------

    def create_lora_training_client(
        self,
        base_model: str,
        rank: int = 32,
        seed: int | None = None,
        train_mlp: bool = True,
        train_attn: bool = True,
        train_unembed: bool = True,
        user_metadata: dict[str, str] | None = None,
        optimizer: AdamOptimizerConfig | None = None,
    ) -> TrainingClient:
        """Make a LoRA adapter and return its client, which can be used at once.

        The service loads the base model where it has not yet, and gives the adapter A random and B zero, so that the
        first forward equals the base.

        Args:
            base_model: by the name that the service knows; the embedded service takes folders, too.
            rank: 1 to 256.
            seed: of the initial A; None lets the service choose one.
            train_mlp: adapt the MLP or the experts.
            train_attn: adapt the attention projections.
            train_unembed: adapt the output projection.
            user_metadata: kept with the training run.
            optimizer: AdamW, the only family served.

        Raises:
            UserError: nothing is to be trained, or another optimizer is asked for.
        """
        if not (train_mlp or train_attn or train_unembed):
            raise invalid("train_mlp, train_attn, train_unembed", "all False", "one of them True")
        _check_optimizer(optimizer)
        lora = LoraConfig(rank=rank, seed=seed, train_mlp=train_mlp, train_attn=train_attn, train_unembed=train_unembed)
        return TrainingClient.create(self._session, "create_model", creation_body(base_model, lora, user_metadata))

    create_lora_training_client_async = awaiting(create_lora_training_client)

    def create_training_client_from_state(
        self,
        path: str,
        base_model: str | None = None,
        user_metadata: dict[str, str] | None = None,
        weights_access_token: str | None = None,
        optimizer: AdamOptimizerConfig | None = None,
    ) -> TrainingClient:
        """Make an adapter with the weights of a checkpoint and a fresh optimizer.

        Args:
            path: of `save_state`; one that is being saved is waited for.
            base_model: a compatible base to put the adapter on; None takes the checkpoint's.
            user_metadata: kept with the new training run.
            weights_access_token: a key of the checkpoint's owner, where that is somebody else.
            optimizer: AdamW, the only family served.

        Raises:
            UserError: it is no checkpoint path.
        """
        _check_optimizer(optimizer)
        return self._from_state(path, False, base_model, user_metadata, weights_access_token)

    create_training_client_from_state_async = awaiting(create_training_client_from_state)

    def create_training_client_from_state_with_optimizer(
        self,
        path: str,
        base_model: str | None = None,
        user_metadata: dict[str, str] | None = None,
        weights_access_token: str | None = None,
    ) -> TrainingClient:
        """Make an adapter with the weights and the optimizer of a training state, as if it had never stopped."""
        return self._from_state(path, True, base_model, user_metadata, weights_access_token)

    create_training_client_from_state_with_optimizer_async = awaiting(create_training_client_from_state_with_optimizer)

    def _from_state(
        self,
        path: str,
        with_optimizer: bool,
        base_model: str | None,
        user_metadata: dict[str, str] | None,
        weights_access_token: str | None,
    ) -> TrainingClient:
        # Checked here, where the line of the mistake is in the traceback.
        CheckpointPath.parse(path)
        body: dict[str, Any] = {"type": "load_weights", "path": path, "optimizer": with_optimizer}
        optional = {
            "base_model": base_model,
            "user_metadata": user_metadata,
            "weights_access_token": weights_access_token,
        }
        body |= {key: value for key, value in optional.items() if value is not None}
        return TrainingClient.create(self._session, "load_weights", body)

    # -- sampling clients ---------------------------------------------------------------------------------------------

    def create_sampling_client(
        self,
        model_path: str | None = None,
        base_model: str | None = None,
        retry_config: None = None,
        record_stability_info: bool = False,
    ) -> SamplingClient:
        """Return a client that samples from saved weights or from a base model; it can be used at once.

        Args:
            model_path: of `save_weights_for_sampler`; one that is being saved is waited for.
            base_model: by the name that the service knows.
            retry_config: not offered: the client retries by itself.
            record_stability_info: let the service keep what is sampled, until the session ends or a day after its last
                use, for losses that name it (`stable_reinforce`, by `Datum.with_provenance`).

        Raises:
            UserError: neither is given.
        """
        refuse_retry_config(retry_config)
        return SamplingClient.create(
            self._session,
            model_path=model_path,
            base_model=base_model,
            record_stability_info=record_stability_info,
        )

    create_sampling_client_async = awaiting(create_sampling_client)

    # -- facts --------------------------------------------------------------------------------------------------------

    def get_server_capabilities(self) -> GetServerCapabilitiesResponse:
        """Return the base models and losses that the service has."""
        return wait_blocking(self._session.submit(self.get_server_capabilities_async()))

    async def get_server_capabilities_async(self) -> GetServerCapabilitiesResponse:
        """Return the base models and losses that the service has."""
        return await self.create_rest_client().get_server_capabilities()

    def list_models(self) -> list[SupportedModel]:
        """Return the base models that the service has, with context length and kind."""
        return self.get_server_capabilities().supported_models

    async def list_models_async(self) -> list[SupportedModel]:
        """Return the base models that the service has, with context length and kind."""
        return (await self.get_server_capabilities_async()).supported_models

    def get_tokenizer(self, model: str) -> Tokenizer:
        """Return the tokenizer of a base model of the service."""
        return wait_blocking(self._session.submit(find_tokenizer(model, self._session.connection)))

    def create_rest_client(self) -> RestClient:
        """Return a client that lists and manages runs, checkpoints and sessions of the same service."""
        return RestClient(self._session)

    # -- end ----------------------------------------------------------------------------------------------------------

    def close(self, status: FinishStatus = "success", detail: str | None = None) -> None:
        """Wait for what was submitted, and end the session; its clients cannot be used any more.

        Args:
            status: how it ended; `interrupted` does not wait.
            detail: kept with the session.
        """
        # In this order: a session that ends takes with it what is still being worked on.
        if status != "interrupted":
            self._session.drain()
        self._session.finish(status, detail)

    def __enter__(self) -> ServiceClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session.leave(error)


def _check_optimizer(optimizer: AdamOptimizerConfig | Literal["adamw"] | None) -> None:
    kind = getattr(optimizer, "type", optimizer)
    if kind not in (None, "adamw"):
        raise UserError(f"optimizer: got {kind!r}, expected AdamOptimizerConfig(), the only family served")
