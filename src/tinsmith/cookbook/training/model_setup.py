"""What every trainer opens first: the service, and the tokenizer and renderer of its model."""

from __future__ import annotations

from typing import Any, NamedTuple

from tinsmith import ServiceClient
from tinsmith.cookbook.model_info import renderer_of
from tinsmith.cookbook.renderers import Renderer
from tinsmith.cookbook.runs import Run, RunConfig


class ModelSetup(NamedTuple):
    """A run's way to its model.

    Attributes:
        service: the run's client; it makes samplers, also of other models: teachers, judges, references.
        tokenizer, renderer: of the model that is trained.
    """

    service: ServiceClient
    tokenizer: Any
    renderer: Renderer


def set_up_model(run: Run, config: RunConfig) -> ModelSetup:
    """Open the service of a run, and what belongs to the model that its config names.

    Nothing is trained or loaded by that: the training client comes with the loop, after the data were checked.

    Raises:
        UserError: there is no such renderer, or it does not fit the tokenizer.
        TinsmithError: the service cannot be reached, or nobody has the tokenizer.
    """
    service = run.service_client()
    # Through the run's service, which may know the model by a name that nobody else knows.
    tokenizer = service.get_tokenizer(config.model_name)
    return ModelSetup(service, tokenizer, renderer_of(config.model_name, tokenizer, config.renderer_name))
