"""`RestClient`: lists and manages training runs, checkpoints and sessions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, Unpack

from pydantic import BaseModel

from tinsmith.client.checkpoints.adapter_upload import ImportedCheckpoint, LocalAdapter, import_adapter
from tinsmith.client.checkpoints.download import checkpoint_route, download
from tinsmith.client.transport.async_twins import awaiting
from tinsmith.client.transport.exchange import RequestParts
from tinsmith.client.transport.futures import APIFuture, Pending
from tinsmith.client.transport.opening import open_connection
from tinsmith.client.transport.session import ClientSession
from tinsmith.types.errors import TinsmithError
from tinsmith.types.names.paths import CheckpointPath, check_name
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
        # Held, because a session that nobody holds is ended: this client may be all that is left of a `ServiceClient`.
        self._session = session
        self._connection = session.connection if session is not None else open_connection(base_url, api_key)

    def __repr__(self) -> str:
        return f"RestClient({self._connection.address})"

    def _call(self, answer: type[M], method: str, path: str, **parts: Unpack[RequestParts]) -> APIFuture[M]:
        asking = self._connection.call(answer, method, path, **parts)
        return Pending(self._connection.submit_operation(asking, f"{method} {path}"))

    def _do(self, method: str, path: str, **parts: Unpack[RequestParts]) -> APIFuture[None]:
        return Pending(self._connection.submit_operation(self._send(method, path, **parts), f"{method} {path}"))

    async def _send(self, method: str, path: str, **parts: Unpack[RequestParts]) -> None:
        await self._connection.send(method, path, **parts)

    # -- models and runs ----------------------------------------------------------------------------------------------

    def get_server_capabilities(self) -> APIFuture[GetServerCapabilitiesResponse]:
        """Ask for the base models and losses that the service has."""
        return self._call(GetServerCapabilitiesResponse, "GET", "get_server_capabilities")

    get_server_capabilities_async = awaiting(get_server_capabilities)

    def get_training_run(self, training_run_id: str, access_scope: Scope = "owned") -> APIFuture[TrainingRun]:
        """Ask for one training run."""
        return self._call(TrainingRun, "GET", f"training_runs/{training_run_id}", params={"access_scope": access_scope})

    get_training_run_async = awaiting(get_training_run)

    def get_training_run_by_tinker_path(
        self, tinker_path: str, access_scope: Scope = "owned"
    ) -> APIFuture[TrainingRun]:
        """Ask for the training run of a checkpoint."""
        return self.get_training_run(_parsed(tinker_path).run_id, access_scope)

    get_training_run_by_tinker_path_async = awaiting(get_training_run_by_tinker_path)

    def list_training_runs(
        self, limit: int = 20, offset: int = 0, access_scope: Scope = "owned", project_id: str | None = None
    ) -> APIFuture[TrainingRunsResponse]:
        """Ask for a page of training runs, newest first."""
        params = {"limit": limit, "offset": offset, "access_scope": access_scope, "project_id": project_id}
        return self._call(TrainingRunsResponse, "GET", "training_runs", params=params)

    list_training_runs_async = awaiting(list_training_runs)

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def list_checkpoints(self, training_run_id: str) -> APIFuture[CheckpointsResponse]:
        """Ask for the checkpoints of a training run."""
        return self._call(CheckpointsResponse, "GET", f"training_runs/{training_run_id}/checkpoints")

    list_checkpoints_async = awaiting(list_checkpoints)

    def list_user_checkpoints(self, limit: int = 100, offset: int = 0) -> APIFuture[CheckpointsResponse]:
        """Ask for a page of the checkpoints of all runs, newest first."""
        return self._call(CheckpointsResponse, "GET", "checkpoints", params={"limit": limit, "offset": offset})

    list_user_checkpoints_async = awaiting(list_user_checkpoints)

    def get_weights_info_by_tinker_path(self, tinker_path: str) -> APIFuture[WeightsInfoResponse]:
        """Ask for the base model and adapter shape of a checkpoint."""
        body = WeightsInfoRequest(tinker_path=str(_parsed(tinker_path))).wire()
        return self._call(WeightsInfoResponse, "POST", "weights_info", json=body)

    get_weights_info_by_tinker_path_async = awaiting(get_weights_info_by_tinker_path)

    def delete_checkpoint(self, training_run_id: str, checkpoint_id: str) -> APIFuture[None]:
        """Delete a checkpoint; its id is `weights/NAME` or `sampler_weights/NAME`."""
        return self._do("DELETE", f"training_runs/{training_run_id}/checkpoints/{checkpoint_id}")

    delete_checkpoint_async = awaiting(delete_checkpoint)

    def delete_checkpoint_from_tinker_path(self, tinker_path: str) -> APIFuture[None]:
        """Delete a checkpoint."""
        return self._do("DELETE", _route(tinker_path))

    delete_checkpoint_from_tinker_path_async = awaiting(delete_checkpoint_from_tinker_path)

    def publish_checkpoint_from_tinker_path(self, tinker_path: str) -> APIFuture[None]:
        """Let every key of the service read a checkpoint."""
        return self._do("POST", f"{_route(tinker_path)}/publish")

    publish_checkpoint_from_tinker_path_async = awaiting(publish_checkpoint_from_tinker_path)

    def unpublish_checkpoint_from_tinker_path(self, tinker_path: str) -> APIFuture[None]:
        """Let only its owner read a checkpoint again."""
        return self._do("DELETE", f"{_route(tinker_path)}/publish")

    unpublish_checkpoint_from_tinker_path_async = awaiting(unpublish_checkpoint_from_tinker_path)

    def set_checkpoint_ttl_from_tinker_path(self, tinker_path: str, ttl_seconds: int | None) -> APIFuture[None]:
        """Set how long a checkpoint is kept, in seconds from now; None keeps it for ever."""
        # With its null, which is what takes an expiry away.
        body = SetTtlRequest(ttl_seconds=ttl_seconds).model_dump()
        return self._do("PUT", f"{_route(tinker_path)}/ttl", json=body)

    set_checkpoint_ttl_from_tinker_path_async = awaiting(set_checkpoint_ttl_from_tinker_path)

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
        fetching = download(self._connection, _parsed(tinker_path), Path(folder).absolute())
        return Pending(self._connection.submit_operation(fetching, "download_checkpoint"))

    download_checkpoint_async = awaiting(download_checkpoint)

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
        # Read here, so that a wrong folder is an error of this line, not of a future that is looked at later.
        adapter = LocalAdapter.open(Path(folder))
        request = ImportCheckpointRequest(
            base_model=base_model,
            name=check_name(name),
            adapter_config=adapter.config,
            ttl_seconds=ttl_seconds,
            user_metadata=user_metadata,
        )
        importing = import_adapter(self._connection, adapter, request)
        return Pending(self._connection.submit_operation(importing, "import_checkpoint"))

    import_checkpoint_async = awaiting(import_checkpoint)

    # -- sessions and samplers ----------------------------------------------------------------------------------------

    def list_sessions(
        self, limit: int = 20, offset: int = 0, access_scope: Scope = "owned"
    ) -> APIFuture[SessionsResponse]:
        """Ask for a page of session ids, newest first."""
        params = {"limit": limit, "offset": offset, "access_scope": access_scope}
        return self._call(SessionsResponse, "GET", "sessions", params=params)

    list_sessions_async = awaiting(list_sessions)

    def get_session(self, session_id: str, access_scope: Scope = "owned") -> APIFuture[SessionResponse]:
        """Ask for a session's runs and samplers."""
        return self._call(SessionResponse, "GET", f"sessions/{session_id}", params={"access_scope": access_scope})

    get_session_async = awaiting(get_session)

    def get_sampler(self, sampler_id: str) -> APIFuture[GetSamplerResponse]:
        """Ask what a sampling session samples from."""
        return self._call(GetSamplerResponse, "GET", f"samplers/{sampler_id}")

    get_sampler_async = awaiting(get_sampler)

    # -- not offered --------------------------------------------------------------------------------------------------

    # A script of the hosted service fails with a sentence, not with an AttributeError that looks like a fault of ours.
    def __getattr__(self, name: str) -> Callable[..., NoReturn]:
        method = name.removesuffix("_async")
        if method not in _HOSTED_ONLY:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

        def refuse(*_: object, **__: object) -> NoReturn:
            raise TinsmithError(f"RestClient.{method}: not offered by this service, it belongs to the hosted one")

        return refuse


def _parsed(tinker_path: str) -> CheckpointPath:
    return CheckpointPath.parse(tinker_path, "tinker_path")


def _route(tinker_path: str) -> str:
    return checkpoint_route(_parsed(tinker_path))
