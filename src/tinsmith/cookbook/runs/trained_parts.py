"""Which weights of a model a run's adapter acts on, and what that means for the servers that are to load it."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

from tinsmith.types.errors import invalid
from tinsmith.types.facts.lineup import EMBEDDED_MODEL

if TYPE_CHECKING:
    from tinsmith.cookbook.runs.run_config import RunConfig
    from tinsmith.types.responses import WeightsInfoResponse

_NAMES = ("attention", "MLP", "output projection")


@dataclass(frozen=True, slots=True)
class TrainedParts:
    """What is adapted.

    Attributes:
        train_attn: the attention projections.
        train_mlp: the MLP, or the experts.
        train_unembed: the output projection.
    """

    train_attn: bool
    train_mlp: bool
    train_unembed: bool

    @classmethod
    def of(cls, config: RunConfig) -> TrainedParts:
        """Return what a new adapter of a run acts on.

        The output projection only where it is asked for: vLLM and SGLang load no LoRA of it. No such server is meant
        for the embedded model, which is small enough that the projection is a good part of it.
        """
        unembed = config.train_unembed
        return cls(
            train_attn=config.train_attn is not False,
            train_mlp=config.train_mlp is not False,
            train_unembed=config.model_name == EMBEDDED_MODEL if unembed is None else unembed,
        )

    @classmethod
    def saved(cls, config: RunConfig, info: WeightsInfoResponse, what: str) -> TrainedParts:
        """Return what a saved adapter acts on.

        Args:
            config: of the run that goes on from it.
            info: what the service says of it; a service that does not say has the protocol's default, all of them.
            what: it is, in messages.

        Raises:
            UserError: the config asks for something else.
        """
        found: dict[str, bool] = {}
        for name in cls.__slots__:
            found[name] = getattr(info, name) is not False
            asked = getattr(config, name)
            if asked is not None and asked != found[name]:
                raise invalid(name, asked, f"{found[name]}, as {what} has it")
        return cls(**found)

    def words(self) -> str:
        """Return it in words, for the header of a run."""
        told = ", ".join(name for name, trained in zip(_NAMES, astuple(self), strict=True) if trained)
        return f"{told} (vLLM and SGLang need it merged)" if self.train_unembed else told
