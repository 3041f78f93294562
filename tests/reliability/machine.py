"""Clients that do anything, a service that anything happens to, and what must hold all the same."""

from __future__ import annotations

import sys
from pathlib import Path

from hypothesis.stateful import invariant

from tests.reliability.losing import Losing


class Histories(Losing):
    """Its rules are its bases': what clients ask for, how that is sent, and what is lost. Here is what must hold."""

    def teardown(self) -> None:
        try:
            # Where something failed already, that is what there is to say.
            if self.sessions and sys.exc_info()[0] is None:
                self.everything_comes_to_its_end()
        finally:
            self.lives.close()

    @invariant()
    def the_engine_holds_only_what_the_programs_say(self) -> None:
        if self.lives.running is None or self.lives.link.host is None:
            return
        engine = self.lives.link.engine
        runs = {run.model_id: run for run in self.runs}
        for model_id, model in engine.models.items():
            held = (model.weights, tuple(model.gradients))
            assert held in runs[model_id].states, f"{model_id} is in no state of its program: {held}"
        samplers = {sampler.sampler_id: sampler.weights for sampler in self.samplers}
        for sampler_id, weights in engine.samplers.items():
            assert weights == samplers[sampler_id], f"{sampler_id} has the weights {weights}"

    def everything_comes_to_its_end(self) -> None:
        """Every future settles as it must, and what is left in memory and on disk is what the programs say."""
        self.lives.fill_disk(False)
        self._complete(lambda asked: True)
        self.lives.do(self.lives.settle())
        self.the_engine_holds_only_what_the_programs_say()
        self._memory_is_right()
        self._checkpoints_are_right()
        # Each is asked for once more: what was told stays told.
        for asked in self.asked:
            if asked.request_id is not None:
                self._read(asked)

    def _memory_is_right(self) -> None:
        engine = self.lives.link.engine
        alive = {run.model_id: run for run in self.runs if not run.over}
        assert set(engine.models) == set(alive), "the engine holds other models than the programs"
        for model_id, run in alive.items():
            model, reference = engine.models[model_id], run.reference
            assert model.weights == reference.weights, model_id
            if not reference.broken:
                assert tuple(model.gradients) == reference.gradients, model_id
        over = {sampler.sampler_id for sampler in self.samplers if sampler.over and not sampler.lingers}
        assert not over & set(engine.samplers), f"the engine holds samplers that were closed: {over}"

    def _checkpoints_are_right(self) -> None:
        for saved in self.saved:
            folder: Path = self.lives.folder / "data" / "checkpoints" / saved.run.model_id / saved.kind
            name = saved.path.rsplit("/", 1)[1]
            found = [state for state in folder.glob("*/state") if state.parent.name.split("~")[0] == name]
            assert [state.read_text() for state in found] == [repr(saved.weights)], saved.path
