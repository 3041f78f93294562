"""Who may take part in a pass, and who pays for it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinsmith.engine.sharing import Cost, PassKind, PassShare, Turn

LINEAR = Cost(0.0, 0.01)
FLAT = Cost(1.0, 0.0001)


def share(cost: Cost, leads: dict[str, float], most: int = 100, **fields: float) -> PassShare:
    return PassShare(Turn("me", leads, costs={PassKind.DECODE: cost}, **fields), PassKind.DECODE, most)


def test_who_is_ahead_may_make_a_pass_at_most_half_as_long_again() -> None:
    one = share(LINEAR, {"me": 0.0, "flood": 0.9})
    one.take("me", 10)
    assert one.room("flood") == 5
    one.take("flood", 5)
    assert one.room("flood") == 0


def test_where_company_costs_nothing_all_come_along() -> None:
    one = share(FLAT, {"me": 0.0, "flood": 0.9})
    one.take("me", 1)
    assert one.room("flood") == 99


def test_who_is_ahead_by_more_than_a_full_pass_waits() -> None:
    one = share(FLAT, {"me": 0.0, "flood": 1.02})
    one.take("me", 1)
    assert one.room("flood") == 0


def test_who_is_level_shares_the_pass_as_it_comes() -> None:
    one = share(LINEAR, {"me": 0.0, "other": 0.05})
    one.take("me", 10)
    assert one.room("other") == 90


def test_a_pass_is_cut_to_a_slice_but_not_below_what_it_costs_in_any_case() -> None:
    assert share(LINEAR, {}, slice_s=0.25).room("me") == 25
    assert share(Cost(0.2, 0.01), {}, slice_s=0.25).room("me") == 80
    assert share(Cost(), {}, slice_s=0.25).room("me") == 100


def test_whose_turn_it_is_pays_what_a_pass_costs_in_any_case() -> None:
    one = share(FLAT, {"me": 0.0, "flood": 0.0})
    one.take("me", 1)
    one.take("flood", 99)
    assert one.parts() == pytest.approx({"me": 1.0001 / 1.01, "flood": 0.0099 / 1.01})


@given(
    st.floats(0.0, 1.0),
    st.floats(0.0001, 0.1),
    st.floats(0.0, 20.0),
    st.integers(1, 60),
    st.integers(1, 200),
)
def test_company_leaves_nobody_further_ahead(fixed: float, each: float, lead: float, mine: int, theirs: int) -> None:
    """However many turns with company follow each other, who was ahead gains on the other no more."""
    cost = Cost(fixed, each)
    one = share(cost, {"me": 0.0, "flood": lead})
    one.take("me", min(mine, one.room("me")))
    room = min(theirs, one.room("flood"))
    if room > 0:
        one.take("flood", room)
    parts = one.parts()
    assert sum(parts.values()) == pytest.approx(1.0)
    gained = (parts.get("flood", 0.0) - parts["me"]) * cost.of(one.taken)
    due = lead <= cost.fixed_s + cost.of(one.units["me"])
    assert due or gained <= 1e-9
