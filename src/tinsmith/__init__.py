"""Tinsmith: an open, self-hosted Tinker. This is the SDK's face; it needs no torch.

`ServiceClient` and `TrainingClient` begin everything; `tinsmith.types` holds the data, `tinsmith.client` the machinery.
Without a URL the service runs inside this process; with `base_url=` or `TINSMITH_BASE_URL` it is spoken to over HTTP.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tinsmith import types as types
from tinsmith.version import __version__ as __version__

if TYPE_CHECKING:
    from tinsmith.client.checkpoints.rest_client import RestClient as RestClient
    from tinsmith.client.checkpoints.saved_path import SavedPath as SavedPath
    from tinsmith.client.sampling.completions import Completion as Completion
    from tinsmith.client.sampling.completions import Completions as Completions
    from tinsmith.client.sampling.sampling_client import SamplingClient as SamplingClient
    from tinsmith.client.service_client import ServiceClient as ServiceClient
    from tinsmith.client.tokenizer.tokenizer import Tokenizer as Tokenizer
    from tinsmith.client.tokenizer.tokenizer_sources import get_tokenizer as get_tokenizer
    from tinsmith.client.training.training_client import TrainingClient as TrainingClient
    from tinsmith.client.transport.futures import APIFuture as APIFuture
    from tinsmith.types import AdamParams as AdamParams
    from tinsmith.types import Checkpoint as Checkpoint
    from tinsmith.types import CheckpointType as CheckpointType
    from tinsmith.types import Datum as Datum
    from tinsmith.types import EncodedTextChunk as EncodedTextChunk
    from tinsmith.types import ForwardBackwardOutput as ForwardBackwardOutput
    from tinsmith.types import LoraConfig as LoraConfig
    from tinsmith.types import ModelInput as ModelInput
    from tinsmith.types import ModelInputChunk as ModelInputChunk
    from tinsmith.types import OptimStepResponse as OptimStepResponse
    from tinsmith.types import ParsedCheckpointTinkerPath as ParsedCheckpointTinkerPath
    from tinsmith.types import PreferencePair as PreferencePair
    from tinsmith.types import PromptProvenanceSpan as PromptProvenanceSpan
    from tinsmith.types import SampledProvenanceSpan as SampledProvenanceSpan
    from tinsmith.types import SampledSequence as SampledSequence
    from tinsmith.types import SampleResponse as SampleResponse
    from tinsmith.types import SamplingParams as SamplingParams
    from tinsmith.types import TensorData as TensorData
    from tinsmith.types import TrainingRun as TrainingRun
    from tinsmith.types.errors import APIConnectionError as APIConnectionError
    from tinsmith.types.errors import APIError as APIError
    from tinsmith.types.errors import APIResponseValidationError as APIResponseValidationError
    from tinsmith.types.errors import APIStatusError as APIStatusError
    from tinsmith.types.errors import APITimeoutError as APITimeoutError
    from tinsmith.types.errors import AuthenticationError as AuthenticationError
    from tinsmith.types.errors import BadRequestError as BadRequestError
    from tinsmith.types.errors import BillingError as BillingError
    from tinsmith.types.errors import ConflictError as ConflictError
    from tinsmith.types.errors import InternalServerError as InternalServerError
    from tinsmith.types.errors import NotFoundError as NotFoundError
    from tinsmith.types.errors import PermissionDeniedError as PermissionDeniedError
    from tinsmith.types.errors import RateLimitError as RateLimitError
    from tinsmith.types.errors import RequestFailedError as RequestFailedError
    from tinsmith.types.errors import TinsmithError as TinsmithError
    from tinsmith.types.errors import UnprocessableEntityError as UnprocessableEntityError
    from tinsmith.types.errors import UserError as UserError

    # The name that scripts written for the hosted service catch.
    TinkerError = TinsmithError

__title__ = "tinsmith"

# Where each exported name lives; modules load when a name is first used, so that `import tinsmith` stays light.
_HOMES: dict[str, tuple[str, ...]] = {
    "client.sampling.completions": ("Completion", "Completions"),
    "client.transport.futures": ("APIFuture",),
    "client.checkpoints.rest_client": ("RestClient",),
    "client.sampling.sampling_client": ("SamplingClient",),
    "client.checkpoints.saved_path": ("SavedPath",),
    "client.service_client": ("ServiceClient",),
    "client.tokenizer.tokenizer": ("Tokenizer",),
    "client.tokenizer.tokenizer_sources": ("get_tokenizer",),
    "client.training.training_client": ("TrainingClient",),
    "types": (
        "AdamParams",
        "Checkpoint",
        "CheckpointType",
        "Datum",
        "EncodedTextChunk",
        "ForwardBackwardOutput",
        "LoraConfig",
        "ModelInput",
        "ModelInputChunk",
        "OptimStepResponse",
        "ParsedCheckpointTinkerPath",
        "PreferencePair",
        "PromptProvenanceSpan",
        "SampleResponse",
        "SampledProvenanceSpan",
        "SampledSequence",
        "SamplingParams",
        "TensorData",
        "TrainingRun",
    ),
    "types.errors": (
        "APIConnectionError",
        "APIError",
        "APIResponseValidationError",
        "APIStatusError",
        "APITimeoutError",
        "AuthenticationError",
        "BadRequestError",
        "BillingError",
        "ConflictError",
        "InternalServerError",
        "NotFoundError",
        "PermissionDeniedError",
        "RateLimitError",
        "RequestFailedError",
        "TinsmithError",
        "UnprocessableEntityError",
        "UserError",
    ),
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}
_ALIASES = {"TinkerError": "TinsmithError"}

__all__ = sorted([*_MODULE_OF, *_ALIASES, "__title__", "__version__", "types"])  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    target = _ALIASES.get(name, name)
    if target not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULE_OF[target]}"), target)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
