"""Every node's own test rows: dealt out by hand, and what always holds of them."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fedtangent.errors import SettingError
from fedtangent.experiments.setup import setup
from fedtangent.experiments.test_rows import split
from tests.experiments.tiny import ROWS, data, network, partition, tiny


def literal(labels: np.ndarray, y_test: np.ndarray) -> list[list[int]]:
    """How many test rows of each class every node has, row after row of a class to whom it is owed most."""
    counts = [[0] * labels.shape[1] for _ in labels]
    for c in range(labels.shape[1]):
        rows, whole = int((y_test == c).sum()), int(labels[:, c].sum())
        if not whole:
            continue
        owed = [Fraction(int(own[c]) * rows, whole) for own in labels]
        for node, share in enumerate(owed):
            counts[node][c] = int(share)
        rest = sorted(range(len(labels)), key=lambda node: (-(owed[node] - int(owed[node])), node))
        for node in rest[: rows - sum(own[c] for own in counts)]:
            counts[node][c] += 1
    for node, own in enumerate(counts):
        if sum(own):
            continue
        for c in sorted(range(labels.shape[1]), key=lambda c: (-labels[node][c], c)):
            givers = [other for other in range(len(counts)) if counts[other][c] and sum(counts[other]) > 1]
            if labels[node][c] and givers:
                giver = max(givers, key=lambda other: (counts[other][c], -other))
                counts[giver][c] -= 1
                own[c] += 1
                break
        else:
            raise LookupError
    return counts


@settings(max_examples=150)
@given(seed=st.integers(0, 10**6), nodes=st.integers(1, 8), classes=st.integers(2, 5), rows=st.integers(1, 40))
def test_rows_are_dealt_out_as_the_rule_says(seed: int, nodes: int, classes: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 9, size=(nodes, classes)) * rng.integers(0, 2, size=(nodes, classes))
    assume((labels.sum(1) > 0).all())
    y_test = rng.integers(classes, size=rows)
    try:
        expected = literal(labels, y_test)
    except LookupError:
        with pytest.raises(SettingError, match=r"^`evaluate_on` must leave every node a test row of a class"):
            split(labels, y_test, np.random.default_rng(1))
        return
    found = split(labels, y_test, np.random.default_rng(1))
    assert [np.bincount(y_test[own], minlength=classes).tolist() for own in found] == expected
    every = np.concatenate(found)
    assert len({*every.tolist()}) == len(every)  # no row of two nodes
    assert sorted(every) == np.flatnonzero(labels.any(0)[y_test]).tolist()  # and all of classes that anybody has
    again = split(labels, y_test, np.random.default_rng(1))
    assert all(np.array_equal(a, b) for a, b in zip(found, again, strict=True))


def test_proportions_are_exact_where_they_can_be_and_the_rows_are_drawn() -> None:
    labels, y_test = np.array([[10, 0, 30], [30, 20, 10]]), np.repeat([0, 1, 2], 40)
    found = split(labels, y_test, np.random.default_rng(0))
    assert [np.bincount(y_test[own], minlength=3).tolist() for own in found] == [[10, 0, 30], [30, 40, 10]]
    other = split(labels, y_test, np.random.default_rng(1))
    assert not np.array_equal(found[0], other[0])


def test_the_experiment_splits_by_its_seed_and_only_where_it_is_asked_to() -> None:
    built = setup(tiny(model=network(), evaluate_on="own"))
    assert built.tests is not None
    assert sum(len(own.real) for own in built.tests) == 13
    labels = np.stack([np.bincount(own.y, minlength=3) for own in built.data])
    counts = literal(labels, data().y_test.numpy())
    assert [np.bincount(own.y, minlength=3).tolist() for own in built.tests] == counts
    other = setup(tiny(model=network(), evaluate_on="own", seed=1))
    assert built.fingerprint == setup(tiny(model=network(), evaluate_on="own")).fingerprint != other.fingerprint
    assert setup(tiny(model=network())).tests is None


def test_a_partitions_own_test_rows_come_first_and_can_be_left() -> None:
    index = [np.array(rows) for rows in ([3], [0, 1, 2], [12, 4, 5, 6], [7, 8], [9, 10, 11])]
    part = partition()._replace(test_index=index)
    for asked in (None, "own"):
        tests = setup(tiny(model=network(), partition=part, evaluate_on=asked)).tests
        assert tests is not None
        assert [len(own.real) for own in tests] == [1, 3, 4, 2, 3]
    assert setup(tiny(model=network(), partition=part, evaluate_on="all")).tests is None
    own = setup(tiny("fedavg", model=network(2), dataset=data(0), partition=part, evaluate_on="own"))
    assert own.tests is not None


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"evaluate_on": "mine"}, "`evaluate_on` must be one of own, all; got 'mine'. Choose one."),
        (
            {"evaluate_on": "own", "dataset": data(0), "model": network(2)},
            "`evaluate_on` must be all in a regression, whose rows have no classes to split the test set by; got own.",
        ),
        (
            {"evaluate_on": "own", "partition": "iid", "nodes": 14, "degree": 3},
            "`evaluate_on` must leave every node a test row of a class that it trains on; got none for node",
        ),
    ],
)
def test_what_cannot_be(change: dict[str, object], told: str) -> None:
    with pytest.raises(SettingError) as error:
        setup(tiny(**{"model": network(), **change}))
    assert str(error.value).startswith(told)


def test_more_nodes_than_test_rows_cannot_be() -> None:
    assert sum(ROWS) > 13  # of which every node has one
    with pytest.raises(SettingError, match=r"got none for node \d+, of 20 nodes. Use fewer nodes, a larger test set"):
        setup(tiny("fedavg", model=network(), evaluate_on="own", partition="iid", nodes=20))
