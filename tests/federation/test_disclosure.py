import pytest
import torch

from fedtangent.federation import disclosure

CASES = [
    # owners' rows, the fewest in a sum, what is said
    ((5, 5), 1, "`nodes` must be at least 3 in a sum; got 2. Add some."),
    ((), 0, "`nodes` must be at least 3 in a sum; got 0. Add some."),
    ((5, 2, 2), 1, "`nodes` must hold at most half of the rows of a sum each; got 5 of 9. Add some."),
    ((4, 3, 4), 12, "`nodes` must have at least 12 rows in a sum, twice a layer's inputs; got 11. Add some."),
    ((4, 3, 5), 12, None),
    ((4, 2, 2), 8, None),
    ((1, 1, 1), 0, None),
]


def test_a_row_hides_among_twice_as_many_as_it_has_entries() -> None:
    assert disclosure.least(785) == 1570


@pytest.mark.parametrize(("rows", "fewest", "sentence"), CASES)
def test_a_sum_that_shows_somebody_is_refused(rows: tuple[int, ...], fewest: int, sentence: str | None) -> None:
    if sentence is None:
        disclosure.check(rows, fewest, "Add some.")
    else:
        with pytest.raises(ValueError) as error:
            disclosure.check(rows, fewest, "Add some.")
        assert str(error.value) == sentence


@pytest.mark.parametrize(("rows", "fewest", "sentence"), CASES)
@pytest.mark.parametrize("padding", [0, 2])
def test_the_tensor_form_says_the_same(rows: tuple[int, ...], fewest: int, sentence: str | None, padding: int) -> None:
    counts = torch.tensor([*rows, *[100] * padding], dtype=torch.int64)
    real = torch.tensor([True] * len(rows) + [False] * padding, dtype=torch.bool)
    assert bool(disclosure.hides(counts, real, torch.tensor(fewest))) == (sentence is None)


@pytest.mark.parametrize(("rows", "shown"), [(6, True), (11, True), (disclosure.least(12), False)])
def test_what_the_guard_is_for(rows: int, shown: bool) -> None:
    """The range of sum u u^T holds a row that is in the sum, and another one only where all rows are in the range."""
    rng = torch.Generator().manual_seed(3)
    u = torch.randn(rows, 12, generator=rng, dtype=torch.float64)
    member, stranger = u[2], torch.randn(12, generator=rng, dtype=torch.float64)
    values, vectors = torch.linalg.eigh(u.T @ u)
    inside = vectors[:, values > 1e-9 * values.max()]
    outside = [float((row - inside @ (inside.T @ row)).norm() / row.norm()) for row in (member, stranger)]
    assert outside[0] < 1e-7
    assert (outside[1] > 0.01) == shown
