"""Renderers: conversations to tokens and weights, sampled tokens to messages.

`base` is the interface, `pieces` and `encoding` the way from messages to ids, `marks` the way back, `messages` and
`tools` the checks, `train_on_what` the choice of what is learned, `registry` the names. Formats are in `families/`, one
file each; `template/` renders any other model by its own chat template.
"""

from tinsmith.cookbook.renderers.base import ParsedResponse, Renderer, SupervisedExample, TurnEnd
from tinsmith.cookbook.renderers.encoding import Piece
from tinsmith.cookbook.renderers.messages import Message, get_text_content
from tinsmith.cookbook.renderers.pieces import PieceRenderer, Turn
from tinsmith.cookbook.renderers.registry import get_renderer, register_renderer, renderer_names
from tinsmith.cookbook.renderers.tools import ToolSpec
from tinsmith.cookbook.renderers.train_on_what import TrainOnWhat

__all__ = [
    "Message",
    "ParsedResponse",
    "Piece",
    "PieceRenderer",
    "Renderer",
    "SupervisedExample",
    "ToolSpec",
    "TrainOnWhat",
    "Turn",
    "TurnEnd",
    "get_renderer",
    "get_text_content",
    "register_renderer",
    "renderer_names",
]
