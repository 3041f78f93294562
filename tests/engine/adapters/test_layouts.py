"""Where A and B of an adapter's targets lie in its flat vector."""

from __future__ import annotations

import pytest
import torch

from tinsmith.engine.adapters.layouts import RANK_BUCKETS, Layout, Target, bucket_of, targets_for
from tinsmith.types.params import LoraConfig

TARGETS = (
    Target("q", "attn", inputs=6, outputs=10),
    Target("k", "attn", inputs=6, outputs=3),
    Target("experts", "mlp", inputs=6, outputs=7, experts=4, experts_per_token=2),
    Target("head", "unembed", inputs=6, outputs=11),
)


def test_every_view_has_its_shape_and_shares_no_element_with_another() -> None:
    layout = Layout(TARGETS, bucket=8)
    flat = torch.zeros(layout.size)
    for number, place in enumerate(layout.places.values(), start=1):
        for view in (place.a(flat), place.b(flat)):
            assert not view.any(), place.target.name
            view.fill_(number)
    shapes = {name: (tuple(place.a(flat).shape), tuple(place.b(flat).shape)) for name, place in layout.places.items()}
    assert shapes == {
        "q": ((8, 6), (10, 8)),
        "k": ((8, 6), (3, 8)),
        # An expert gets its share of the rank.
        "experts": ((4, 4, 6), (4, 7, 4)),
        "head": ((8, 6), (11, 8)),
    }


def test_views_begin_where_aligned_pointers_are_wanted() -> None:
    layout = Layout(TARGETS, bucket=8)
    assert all(offset % 16 == 0 for place in layout.places.values() for offset in (place.a_offset, place.b_offset))


def test_views_of_stacked_adapters_keep_the_stack() -> None:
    layout = Layout(TARGETS, bucket=8)
    assert layout.places["q"].a(torch.zeros(5, layout.size)).shape == (5, 8, 6)


def test_a_of_neighbours_lie_side_by_side() -> None:
    layout = Layout((Target("q", "attn", 8, 10), Target("k", "attn", 8, 3)), bucket=8)
    assert layout.places["k"].a_offset == layout.places["q"].a_offset + 8 * 8


@pytest.mark.parametrize(("rank", "bucket"), [(1, 8), (8, 8), (9, 16), (129, 256), (256, 256)])
def test_a_rank_has_the_smallest_bucket_that_holds_it(rank: int, bucket: int) -> None:
    assert bucket_of(rank) == bucket
    assert bucket in RANK_BUCKETS


def test_the_switches_choose_the_targets() -> None:
    config = LoraConfig(rank=8, train_attn=False, train_mlp=True, train_unembed=True)
    assert [target.name for target in targets_for(TARGETS, config)] == ["experts", "head"]


def test_parameters_count_the_experts_that_are_trained() -> None:
    assert [target.parameters for target in TARGETS] == [16, 9, 13 * 4 // 2, 17]
