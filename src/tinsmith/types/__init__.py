"""Wire types and codec that SDK and service share; no torch, no HTTP.

Data (`tensor`, `model_input`, `datum`, `preference_pair`, `provenance`, `params`, `outputs`), messages (`requests`,
`responses`, `sample_inputs`), wire forms (`proto/`, `codec`, `compression`), `checks/` of them, and `errors`.
`engine_messages/` is what service and engine say to each other, `names/` what things are called on the wire and on
disk, `facts/` what is known of models and losses.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinsmith.types.datum import Datum as Datum
    from tinsmith.types.errors import RequestErrorCategory as RequestErrorCategory
    from tinsmith.types.facts.base_model_info import BaseModelInfo as BaseModelInfo
    from tinsmith.types.model_input import EncodedTextChunk as EncodedTextChunk
    from tinsmith.types.model_input import ModelInput as ModelInput
    from tinsmith.types.model_input import ModelInputChunk as ModelInputChunk
    from tinsmith.types.names.paths import CheckpointPath as CheckpointPath
    from tinsmith.types.names.paths import CheckpointType as CheckpointType
    from tinsmith.types.outputs import ForwardBackwardOutput as ForwardBackwardOutput
    from tinsmith.types.outputs import LoadWeightsResponse as LoadWeightsResponse
    from tinsmith.types.outputs import LossFnOutput as LossFnOutput
    from tinsmith.types.outputs import OptimStepResponse as OptimStepResponse
    from tinsmith.types.outputs import PromptAltTokens as PromptAltTokens
    from tinsmith.types.outputs import SampledSequence as SampledSequence
    from tinsmith.types.outputs import SampleResponse as SampleResponse
    from tinsmith.types.outputs import SaveWeightsForSamplerResponse as SaveWeightsForSamplerResponse
    from tinsmith.types.outputs import SaveWeightsResponse as SaveWeightsResponse
    from tinsmith.types.outputs import StopReason as StopReason
    from tinsmith.types.outputs import TopkLogprobs as TopkLogprobs
    from tinsmith.types.params import AdamOptimizerConfig as AdamOptimizerConfig
    from tinsmith.types.params import AdamParams as AdamParams
    from tinsmith.types.params import LoraConfig as LoraConfig
    from tinsmith.types.params import SamplingParams as SamplingParams
    from tinsmith.types.preference_pair import PreferencePair as PreferencePair
    from tinsmith.types.provenance import PromptProvenanceSpan as PromptProvenanceSpan
    from tinsmith.types.provenance import ProvenanceSpans as ProvenanceSpans
    from tinsmith.types.provenance import SampledProvenanceSpan as SampledProvenanceSpan
    from tinsmith.types.responses import Checkpoint as Checkpoint
    from tinsmith.types.responses import CheckpointsResponse as CheckpointsResponse
    from tinsmith.types.responses import Cursor as Cursor
    from tinsmith.types.responses import GetInfoResponse as GetInfoResponse
    from tinsmith.types.responses import GetSamplerResponse as GetSamplerResponse
    from tinsmith.types.responses import GetServerCapabilitiesResponse as GetServerCapabilitiesResponse
    from tinsmith.types.responses import ModelData as ModelData
    from tinsmith.types.responses import SessionResponse as SessionResponse
    from tinsmith.types.responses import SessionsResponse as SessionsResponse
    from tinsmith.types.responses import SupportedModel as SupportedModel
    from tinsmith.types.responses import TrainingRun as TrainingRun
    from tinsmith.types.responses import TrainingRunsResponse as TrainingRunsResponse
    from tinsmith.types.responses import WeightsInfoResponse as WeightsInfoResponse
    from tinsmith.types.tensor import TensorData as TensorData
    from tinsmith.types.tensor import TensorDtype as TensorDtype

    # Names that scripts written for the hosted service import; ours are shorter.
    CheckpointsListResponse = CheckpointsResponse
    GetSessionResponse = SessionResponse
    ListSessionsResponse = SessionsResponse
    ParsedCheckpointTinkerPath = CheckpointPath
    ModelID = str
    LossFnType = str

# Where each exported name lives; modules load when a name is first used, so that `import tinsmith` stays light.
_HOMES: dict[str, tuple[str, ...]] = {
    "datum": ("Datum",),
    "errors": ("RequestErrorCategory",),
    "facts.base_model_info": ("BaseModelInfo",),
    "model_input": ("EncodedTextChunk", "ModelInput", "ModelInputChunk"),
    "outputs": (
        "ForwardBackwardOutput",
        "LoadWeightsResponse",
        "LossFnOutput",
        "OptimStepResponse",
        "PromptAltTokens",
        "SampleResponse",
        "SampledSequence",
        "SaveWeightsForSamplerResponse",
        "SaveWeightsResponse",
        "StopReason",
        "TopkLogprobs",
    ),
    "params": ("AdamOptimizerConfig", "AdamParams", "LoraConfig", "SamplingParams"),
    "names.paths": ("CheckpointPath", "CheckpointType"),
    "preference_pair": ("PreferencePair",),
    "provenance": ("PromptProvenanceSpan", "ProvenanceSpans", "SampledProvenanceSpan"),
    "responses": (
        "Checkpoint",
        "CheckpointsResponse",
        "Cursor",
        "GetInfoResponse",
        "GetSamplerResponse",
        "GetServerCapabilitiesResponse",
        "ModelData",
        "SessionResponse",
        "SessionsResponse",
        "SupportedModel",
        "TrainingRun",
        "TrainingRunsResponse",
        "WeightsInfoResponse",
    ),
    "tensor": ("TensorData", "TensorDtype"),
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}
_ALIASES = {
    "CheckpointsListResponse": "CheckpointsResponse",
    "GetSessionResponse": "SessionResponse",
    "ListSessionsResponse": "SessionsResponse",
    "ParsedCheckpointTinkerPath": "CheckpointPath",
}

# Names of texts, for annotations.
_TEXTS = ("LossFnType", "ModelID")

__all__ = sorted([*_MODULE_OF, *_ALIASES, *_TEXTS])  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _TEXTS:
        return str
    target = _ALIASES.get(name, name)
    if target not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULE_OF[target]}"), target)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
