"""Of many like cases those are taken that show most values of every parameter."""

from itertools import product

import pytest

from tests.often import chosen


def test_by_hand() -> None:
    cases = [{"a": a, "b": b} for a, b in product(range(3), range(2))]  # (0, 0), (0, 1), (1, 0), (1, 1), ...
    assert chosen(cases, 1) == {0}
    assert chosen(cases, 2) == {0, 3}  # (1, 1) adds two values, (0, 1) and (1, 0) one
    assert chosen(cases, 3) == {0, 3, 4}  # and (2, 0) the last
    assert chosen(cases, 4) == {0, 1, 3, 4}
    assert chosen(cases, 99) == {*range(6)}


@pytest.mark.parametrize("a", range(5))
@pytest.mark.parametrize("b", range(7))
@pytest.mark.few(7)
def test_every_run_takes_seven(request: pytest.FixtureRequest, a: int, b: int) -> None:
    own = request.node.originalname
    taken = [item for item in request.session.items if getattr(item, "originalname", "") == own]
    quick = [item for item in taken if item.get_closest_marker("slow") is None]
    assert len(quick) <= 7
    if len(taken) > 7:
        assert len({item.callspec.params["b"] for item in quick}) == 7
