"""`RestClient`: lists and manages training runs, checkpoints and sessions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar

from pydantic import BaseModel

from tinsmith.client.checkpoints.adapter_upload import ImportedCheckpoint, LocalAdapter, import_adapter
from tinsmith.client.checkpoints.download import download
from tinsmith.client.transport.futures import APIFuture, Pending
from tinsmith.client.transport.opening import open_connection
from tinsmith.client.transport.session import ClientSession
from tinsmith.types.errors import TinsmithError
from tinsmith.types.paths import CheckpointPath, check_name
from tinsmith.types.requests import ImportCheckpointRequest, SetTtlRequest, WeightsInfoRequest
from tinsmith.types.responses import (
    CheckpointsResponse,
    GetSamplerResponse,
    GetServerCapabilitiesResponse,
    SessionResponse,
    SessionsResponse,
    TrainingRun,
    TrainingRunsResponse,
    WeightsInfoResponse,
)

M = TypeVar("M", bound=BaseModel)
Scope = Literal["owned", "accessible"]

# What the hosted service offers for its accounts, projects and bills.
_HOSTED_ONLY = frozenset(
    {
        "assign_session_project",
        "copy_weights",
        "export_session_trace",
        "get_audit_log",
        "get_billing_usage",
        "get_current_checkpoint_storage_usage",
        "get_external_weights_urls",
        "search_sessions",
        "whoami",
    }
)


class RestClient:
    """Lists and manages what a service keeps. Makes no session of its own.

    Every method returns a future at once; its `*_async` twin returns the result.

    Args:
        session: whose service to ask; None takes `base_url` and `api_key`, or the environment's.
        base_url: where the service is.
        api_key: None takes `TINSMITH_API_KEY`.
    """

    def __init__(
        self, session: ClientSession | None = None, *, base_url: str | None = None, api_key: str | None = None
    ) -> None:
        # The session is held so that it outlives this client.
        self._session = session
        self._connection = session.connection if session is not None else open_connection(base_url, api_key)

    def _call(self, answer: type[M], method: str, path: str, **request: Any) -> APIFuture[M]:
        return Pending(self._connection.submit(self._connection.call(answer, method, path, **request)))

    def _do(self, method: str, path: str, **request: Any) -> APIFuture[None]:
        return Pending(self._connection.submit(self._send(method, path, **request)))

    async def _send(self, method: str, path: str, **request: Any) -> None:
        await self._connection.send(method, path, **request)

    # -- models and runs ----------------------------------------------------------------------------------------------

    def get_server_capabilities(self) -> APIFuture[GetServerCapabilitiesResponse]:
        """Ask for the base models and losses that the service has."""
        return self._call(GetServerCapabilitiesResponse, "GET", "get_server_capabilities")

    async def get_server_capabilities_async(self) -> GetServerCapabilitiesResponse:
        """Return the base models and losses that the service has."""
        return await self.get_server_capabilities()

    def get_training_run(self, training_run_id: str, access_scope: Scope = "owned") -> APIFuture[TrainingRun]:
        """Ask for one training run."""
        return self._call(TrainingRun, "GET", f"training_runs/{training_run_id}", params={"access_scope": access_scope})

    async def get_training_run_async(self, training_run_id: str, access_scope: Scope = "owned") -> TrainingRun:
        """Return one training run."""
        return await self.get_training_run(training_run_id, access_scope)

    def get_training_run_by_tinker_path(
        self, tinker_path: str, access_scope: Scope = "owned"
    ) -> APIFuture[TrainingRun]:
        """Ask for the training run of a checkpoint."""
        return self.get_training_run(_parsed(tinker_path).run_id, access_scope)

    async def get_training_run_by_tinker_path_async(
        self, tinker_path: str, access_scope: Scope = "owned"
    ) -> TrainingRun:
        """Return the training run of a checkpoint."""
        return await self.get_training_run_by_tinker_path(tinker_path, access_scope)

    def list_training_runs(
        self, limit: int = 20, offset: int = 0, access_scope: Scope = "owned", project_id: str | None = None
    ) -> APIFuture[TrainingRunsResponse]:
        """Ask for a page of training runs, newest first."""
        params = {"limit": limit, "offset": offset, "access_scope": access_scope, "project_id": project_id}
        return self._call(TrainingRunsResponse, "GET", "training_runs", params=params)

    async def list_training_runs_async(
        self, limit: int = 20, offset: int = 0, access_scope: Scope = "owned", project_id: str | None = None
    ) -> TrainingRunsResponse:
        """Return a page of training runs, newest first."""
        return await self.list_training_runs(limit, offset, access_scope, project_id)

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def list_checkpoints(self, training_run_id: str) -> APIFuture[CheckpointsResponse]:
        """Ask for the checkpoints of a training run."""
        return self._call(CheckpointsResponse, "GET", f"training_runs/{training_run_id}/checkpoints")

    async def list_checkpoints_async(self, training_run_id: str) -> CheckpointsResponse:
        """Return the checkpoints of a training run."""
        return await self.list_checkpoints(training_run_id)

    def list_user_checkpoints(self, limit: int = 100, offset: int = 0) -> APIFuture[CheckpointsResponse]:
        """Ask for a page of the checkpoints of all runs, newest first."""
        return self._call(CheckpointsResponse, "GET", "checkpoints", params={"limit": limit, "offset": offset})

    async def list_user_checkpoints_async(self, limit: int = 100, offset: int = 0) -> CheckpointsResponse:
        """Return a page of the checkpoints of all runs, newest first."""
        return await self.list_user_checkpoints(limit, offset)

    def get_weights_info_by_tinker_path(self, tinker_path: str) -> APIFuture[WeightsInfoResponse]:
        """Ask for the base model and adapter shape of a checkpoint."""
        body = WeightsInfoRequest(tinker_path=str(_parsed(tinker_path))).wire()
        return self._call(WeightsInfoResponse, "POST", "weights_info", json=body)

    async def get_weights_info_by_tinker_path_async(self, tinker_path: str) -> WeightsInfoResponse:
        """Return the base model and adapter shape of a checkpoint."""
        return await self.get_weights_info_by_tinker_path(tinker_path)

    def delete_checkpoint(self, training_run_id: str, checkpoint_id: str) -> APIFuture[None]:
        """Delete a checkpoint; its id is `weights/NAME` or `sampler_weights/NAME`."""
        return self._do("DELETE", f"training_runs/{training_run_id}/checkpoints/{checkpoint_id}")

    async def delete_checkpoint_async(self, training_run_id: str, checkpoint_id: str) -> None:
        """Delete a checkpoint and wait."""
        await self.delete_checkpoint(training_run_id, checkpoint_id)

    def delete_checkpoint_from_tinker_path(self, tinker_path: str) -> APIFuture[None]:
        """Delete a checkpoint."""
        return self._do("DELETE", _checkpoint_route(tinker_path))

    async def delete_checkpoint_from_tinker_path_async(self, tinker_path: str) -> None:
        """Delete a checkpoint and wait."""
        await self.delete_checkpoint_from_tinker_path(tinker_path)

    def publish_checkpoint_from_tinker_path(self, tinker_path: str) -> APIFuture[None]:
        """Let every key of the service read a checkpoint."""
        return self._do("POST", f"{_checkpoint_route(tinker_path)}/publish")

    async def publish_checkpoint_from_tinker_path_async(self, tinker_path: str) -> None:
        """Let every key of the service read a checkpoint, and wait."""
        await self.publish_checkpoint_from_tinker_path(tinker_path)

    def unpublish_checkpoint_from_tinker_path(self, tinker_path: str) -> APIFuture[None]:
        """Let only its owner read a checkpoint again."""
        return self._do("DELETE", f"{_checkpoint_route(tinker_path)}/publish")

    async def unpublish_checkpoint_from_tinker_path_async(self, tinker_path: str) -> None:
        """Let only its owner read a checkpoint again, and wait."""
        await self.unpublish_checkpoint_from_tinker_path(tinker_path)

    def set_checkpoint_ttl_from_tinker_path(self, tinker_path: str, ttl_seconds: int | None) -> APIFuture[None]:
        """Set how long a checkpoint is kept, in seconds from now; None keeps it for ever."""
        body = SetTtlRequest(ttl_seconds=ttl_seconds).model_dump()
        return self._do("PUT", f"{_checkpoint_route(tinker_path)}/ttl", json=body)

    async def set_checkpoint_ttl_from_tinker_path_async(self, tinker_path: str, ttl_seconds: int | None) -> None:
        """Set how long a checkpoint is kept, and wait."""
        await self.set_checkpoint_ttl_from_tinker_path(tinker_path, ttl_seconds)

    def download_checkpoint(self, tinker_path: str, folder: str | Path) -> APIFuture[Path]:
        """Fetch a checkpoint's adapter as a plain PEFT folder: `adapter_model.safetensors` and `adapter_config.json`.

        Args:
            tinker_path: a training state or weights for sampling.
            folder: appears whole or not at all; must be empty or absent.

        Returns:
            A future of the folder.

        Raises:
            UserError: it is no checkpoint path; from the future, where the folder is not empty.
            TinsmithError: from the future, where a file arrived damaged.
        """
        return Pending(
            self._connection.submit(download(self._connection, _parsed(tinker_path), Path(folder).absolute()))
        )

    async def download_checkpoint_async(self, tinker_path: str, folder: str | Path) -> Path:
        """Fetch a checkpoint's adapter and wait; arguments as for `download_checkpoint`."""
        return await self.download_checkpoint(tinker_path, folder)

    def import_checkpoint(
        self,
        folder: str | Path,
        base_model: str,
        name: str = "imported",
        *,
        ttl_seconds: int | None = None,
        user_metadata: dict[str, Any] | None = None,
    ) -> APIFuture[ImportedCheckpoint]:
        """Bring an adapter that PEFT made to the service: as a training state (weights only) and for sampling.

        Args:
            folder: a PEFT folder: `adapter_model.safetensors` and `adapter_config.json`.
            base_model: that it was made for, by the name that the service knows.
            name: of both checkpoints; the service gives them a training run of their own.
            ttl_seconds: how long they are kept; None for ever.
            user_metadata: kept with them.

        Returns:
            A future of their addresses, done once both are saved.

        Raises:
            UserError: the folder is no PEFT folder, or the name cannot be one.
            APIStatusError: from the future, where the service refuses the adapter.
            RequestFailedError: from the future, where it does not fit the base model, or could not be saved.
        """
        adapter = LocalAdapter.open(Path(folder))
        request = ImportCheckpointRequest(
            base_model=base_model,
            name=check_name(name),
            adapter_config=adapter.config,
            ttl_seconds=ttl_seconds,
            user_metadata=user_metadata,
        )
        return Pending(self._connection.submit(import_adapter(self._connection, adapter, request)))

    async def import_checkpoint_async(
        self,
        folder: str | Path,
        base_model: str,
        name: str = "imported",
        *,
        ttl_seconds: int | None = None,
        user_metadata: dict[str, Any] | None = None,
    ) -> ImportedCheckpoint:
        """Bring an adapter to the service and wait; arguments as for `import_checkpoint`."""
        return await self.import_checkpoint(
            folder, base_model, name, ttl_seconds=ttl_seconds, user_metadata=user_metadata
        )

    # -- sessions and samplers ----------------------------------------------------------------------------------------

    def list_sessions(
        self, limit: int = 20, offset: int = 0, access_scope: Scope = "owned"
    ) -> APIFuture[SessionsResponse]:
        """Ask for a page of session ids, newest first."""
        params = {"limit": limit, "offset": offset, "access_scope": access_scope}
        return self._call(SessionsResponse, "GET", "sessions", params=params)

    async def list_sessions_async(
        self, limit: int = 20, offset: int = 0, access_scope: Scope = "owned"
    ) -> SessionsResponse:
        """Return a page of session ids, newest first."""
        return await self.list_sessions(limit, offset, access_scope)

    def get_session(self, session_id: str, access_scope: Scope = "owned") -> APIFuture[SessionResponse]:
        """Ask for a session's runs and samplers."""
        return self._call(SessionResponse, "GET", f"sessions/{session_id}", params={"access_scope": access_scope})

    async def get_session_async(self, session_id: str, access_scope: Scope = "owned") -> SessionResponse:
        """Return a session's runs and samplers."""
        return await self.get_session(session_id, access_scope)

    def get_sampler(self, sampler_id: str) -> APIFuture[GetSamplerResponse]:
        """Ask what a sampling session samples from."""
        return self._call(GetSamplerResponse, "GET", f"samplers/{sampler_id}")

    async def get_sampler_async(self, sampler_id: str) -> GetSamplerResponse:
        """Return what a sampling session samples from."""
        return await self.get_sampler(sampler_id)

    # -- not offered --------------------------------------------------------------------------------------------------

    def __getattr__(self, name: str) -> Callable[..., NoReturn]:
        method = name.removesuffix("_async")
        if method not in _HOSTED_ONLY:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

        def refuse(*_: object, **__: object) -> NoReturn:
            raise TinsmithError(f"RestClient.{method}: not offered by this service, it belongs to the hosted one")

        return refuse


def _parsed(tinker_path: str) -> CheckpointPath:
    return CheckpointPath.parse(tinker_path, "tinker_path")


def _checkpoint_route(tinker_path: str) -> str:
    path = _parsed(tinker_path)
    return f"training_runs/{path.run_id}/checkpoints/{path.checkpoint_id}"
