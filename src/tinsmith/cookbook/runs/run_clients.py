"""The clients of a run: one session of the service, which ends with the run."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict
from typing import TYPE_CHECKING

from tinsmith.cookbook.runs.run_checkpoints import SavedState
from tinsmith.cookbook.runs.run_config import RunConfig
from tinsmith.cookbook.runs.trained_parts import TrainedParts
from tinsmith.types.errors import invalid

# The SDK takes a moment to import, and `--help` needs none of it.
if TYPE_CHECKING:
    from tinsmith import RestClient, ServiceClient, TrainingClient


class RunClients:
    """Opens the clients of a run when they are first asked for.

    Args:
        config: names the service, the model and the adapter.
        recipe, name: what the session is called in the service's lists.
        exits: closes the session.
    """

    def __init__(self, config: RunConfig, recipe: str, name: str, exits: ExitStack) -> None:
        self._config = config
        self._recipe = recipe
        self._name = name
        self._exits = exits
        self._service: ServiceClient | None = None

    def service(self) -> ServiceClient:
        """Return the client of the service."""
        import tinsmith

        if self._service is None:
            self._service = self._exits.enter_context(
                tinsmith.ServiceClient(
                    base_url=self._config.base_url,
                    user_metadata={"recipe": self._recipe},
                    display_name=self._config.wandb_name or self._name,
                )
            )
        return self._service

    def noted(self, step: int | None = None) -> dict[str, str]:
        """Return what listings tell of a run's adapter, and of a checkpoint after `step` steps."""
        return {"recipe": self._recipe, **({} if step is None else {"step": str(step)})}

    def rest(self) -> RestClient:
        """Return the client that knows checkpoints."""
        return self.service().create_rest_client()

    def training(self, state: SavedState | None) -> TrainingClient:
        """Return a client of the adapter: of `state`, else of `load_checkpoint_path`, else a new one.

        Raises:
            UserError: `load_checkpoint_path` is of another model or rank.
        """
        service = self.service()
        if state is not None:
            return service.create_training_client_from_state_with_optimizer(state.path, user_metadata=self.noted())
        start = self._config.load_checkpoint_path
        if start is not None:
            self._check_start(start)
            # Without the optimizer: its moments belong to the run that made them.
            return service.create_training_client_from_state(start, user_metadata=self.noted())
        return service.create_lora_training_client(
            self._config.model_name,
            rank=self._config.lora_rank,
            seed=self._config.seed,
            **asdict(TrainedParts.of(self._config)),
            user_metadata=self.noted(),
        )

    def trained_parts(self, state: SavedState | None) -> TrainedParts:
        """Return what the adapter of `training` acts on.

        Raises:
            UserError: the settings ask for something else than the checkpoint has.
        """
        start = self._config.load_checkpoint_path
        path = state.path if state is not None else start
        if path is None:
            return TrainedParts.of(self._config)
        info = self.rest().get_weights_info_by_tinker_path(path).result()
        what = "the state of the run" if state is not None else "load_checkpoint_path"
        return TrainedParts.saved(self._config, info, what)

    def _check_start(self, path: str) -> None:
        info = self.rest().get_weights_info_by_tinker_path(path).result()
        TrainedParts.saved(self._config, info, "load_checkpoint_path")
        for field, value, found, what in (
            ("model_name", self._config.model_name, info.base_model, "the base"),
            ("lora_rank", self._config.lora_rank, info.lora_rank, "the rank"),
        ):
            if found is not None and value != found:
                raise invalid(field, value, f"{found}, {what} of load_checkpoint_path")
