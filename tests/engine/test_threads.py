"""CPU threads follow the largest model, unless the settings say otherwise."""

from __future__ import annotations

import pytest
import torch

from tinsmith.engine import threads


def test_small_models_take_one_thread_and_the_largest_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    monkeypatch.setattr(threads, "_default", 3)
    monkeypatch.setattr(threads, "_largest", 0)
    try:
        taken = [threads.use_threads(size, None) for size in (1_500_000, 8_000_000_000, 1_500_000)]
        assert taken == [1, 3, 3]
        assert torch.get_num_threads() == 3
        assert threads.use_threads(1_500_000, 2) == 2
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
