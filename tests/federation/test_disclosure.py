from itertools import combinations

import pytest
import torch
from torch import Tensor

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


def reached(ways: Tensor, rows: Tensor, node: int, hops: int) -> tuple[list[Tensor], bool]:
    """Everybody's rows in a node's sums after every hop, and whether a guard lets all of them pass."""
    own = torch.arange(len(rows)) == node
    reach, sums, safe = disclosure.Reach(own, own * rows, own), [], True
    for hop in range(1, hops + 1):
        sums.append(torch.linalg.matrix_power(ways, hop)[node] * rows)
        reach, shown = reach.farther(sums[-1], torch.tensor(1))
        safe = safe and not bool(shown)
    return sums, safe


def tells_of_two(sums: list[Tensor], node: int) -> bool:
    """Whether a combination of the sums, the node's own part taken off, has parts of one or two others alone."""
    others = torch.stack([torch.cat([part[:node], part[node + 1 :]]).double() for part in sums])
    two = torch.tensor(list(combinations(range(others.shape[1]), 2)))
    rest = others.expand(len(two), *others.shape).clone()
    rest[torch.arange(len(two))[:, None], :, two] = 0
    return bool((torch.linalg.matrix_rank(rest) < torch.linalg.matrix_rank(others)).any())


@pytest.mark.parametrize("hops", [1, 2, 3])
def test_no_combination_of_sums_of_several_hops_tells_of_two_where_every_ring_is_a_crowd(hops: int) -> None:
    rng, passed, told = torch.Generator().manual_seed(hops), 0, 0
    for nodes, links in ((8, 10), (12, 22), (16, 26), (20, 40), (24, 36)) * 2:
        pairs = list(combinations(range(nodes), 2))
        ways = torch.eye(nodes, dtype=torch.int64)
        for index in torch.randperm(len(pairs), generator=rng)[:links].tolist():
            i, j = pairs[index]
            ways[i, j] = ways[j, i] = 1
        rows = torch.randint(1, 4, (nodes,), generator=rng)
        for node in range(nodes):
            sums, safe = reached(ways, rows, node, hops)
            tells = tells_of_two(sums, node)
            passed, told = passed + safe, told + tells
            assert not (safe and tells and ways[node].sum() > 1)
    assert passed > 10 and told > 10


def test_whom_the_rings_hide() -> None:
    """On a line of seven whose third node has two more neighbours, by hand."""
    links = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6), (2, 7), (2, 8)]
    ways = torch.eye(9, dtype=torch.int64)
    for i, j in links:
        ways[i, j] = ways[j, i] = 1
    ones = torch.ones(9, dtype=torch.int64)
    assert [reached(ways, ones, node, 1)[1] for node in range(9)] == [node == 2 for node in range(9)]
    assert not any(reached(ways, ones, node, 2)[1] for node in range(9))  # 2's second ring is 0 and 4
    ones[2] = 0  # without rows it is none of a crowd
    assert not any(reached(ways, ones, node, 1)[1] for node in (1, 3))
    alone = torch.eye(3, dtype=torch.int64)
    assert all(reached(alone, ones[:3], node, 2)[1] for node in range(3))
