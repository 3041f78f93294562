"""Renderers: conversations to tokens and weights, sampled tokens to messages.

`base` is the interface, `encoding` the way from text to ids, `messages` the checks, `registry` the names; one file per
format: `tiny`, `llama3`, `chatml` (Qwen), `role_colon` (base models), `template` (any tokenizer's own chat template).
"""

from tinsmith.cookbook.renderers.base import (
    ParsedResponse,
    Renderer,
    SupervisedExample,
    TrainOnWhat,
    TurnEnd,
)
from tinsmith.cookbook.renderers.messages import Message
from tinsmith.cookbook.renderers.registry import get_renderer, register_renderer, renderer_names

__all__ = [
    "Message",
    "ParsedResponse",
    "Renderer",
    "SupervisedExample",
    "TrainOnWhat",
    "TurnEnd",
    "get_renderer",
    "register_renderer",
    "renderer_names",
]
