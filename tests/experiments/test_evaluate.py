"""Accuracy and loss, counted by hand."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fedtangent.experiments import evaluate as module
from fedtangent.experiments.evaluate import evaluate, measured
from fedtangent.experiments.setup import Setup, setup
from fedtangent.federation import Central, Wire
from fedtangent.methods import dfedavg, fedavg, local
from fedtangent.shard import Dataset
from fedtangent.transports.memory import memory
from tests.experiments.tiny import data, network, partition, tiny

W_K = [{name: p.detach() * (k + 1) - k / 4 for name, p in network().named_parameters()} for k in range(5)]


@torch.no_grad()
def by_hand(w: dict[str, Tensor], classes: int = 3) -> tuple[float, float]:
    """Row after row: how many are right, and the mean loss."""
    model = network(classes or 2)
    model.load_state_dict(w)
    test = data(classes)
    right, loss = 0, 0.0
    for x, y in zip(test.x_test, test.y_test, strict=True):
        f = model(x[None])
        if classes:
            right += int(f[0].argmax() == y)
            loss += float(torch.nn.functional.cross_entropy(f, y[None]))
        else:
            loss += float(((f[0] - y) ** 2).sum() / 4)
    return right / len(test.x_test), loss / len(test.x_test)


def found(built: Setup, state: Any, w: dict[str, Tensor], nodes: bool = True) -> dict[str, Any]:
    wire = Wire(memory())
    result = evaluate(built, built.fleet(1, wire), state, Central(w), nodes)
    assert wire.ledger.sent_bytes == 0
    return result


def test_the_aggregated_model_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH", 5)
    for loss in (None, "squared"):  # of labels the record has the cross-entropy
        built = setup(tiny(model=network(), loss=loss))
        assert measured(built, W_K[1]) == pytest.approx(by_hand(W_K[1]), rel=1e-5)


def test_neighbours_are_measured_after_one_more_average() -> None:
    built = setup(tiny(model=network()))
    graph = built.graph(1)
    assert graph is not None
    state = dfedavg.State(built.fleet(1, Wire(memory())).each(W_K))
    each = []
    for i in range(5):
        group = [W_K[j] for j in (i, *graph.neighbours[i])]
        each.append(by_hand({name: sum(w[name] for w in group) / len(group) for name in group[0]})[0])  # type: ignore[misc]
    result = found(built, state, W_K[2])
    assert result["mean_node_accuracy"] == pytest.approx(sum(each) / 5)
    assert result["worst_tenth_accuracy"] == pytest.approx(min(each))
    assert result["node_accuracy"] == pytest.approx(each)
    assert (result["accuracy"], result["loss"]) == pytest.approx(by_hand(W_K[2]), rel=1e-5)
    assert found(built, state, W_K[2], nodes=False)["mean_node_accuracy"] is None


def test_nodes_alone_are_measured_as_they_are() -> None:
    built = setup(tiny("local", model=network()))
    each = [by_hand(w)[0] for w in W_K]
    result = found(built, local.State(built.fleet(1, Wire(memory())).each(W_K)), W_K[0])
    assert result["mean_node_accuracy"] == pytest.approx(sum(each) / 5)
    assert min(each) < max(each)
    assert result["node_accuracy"] == pytest.approx(each)  # in the order of the nodes
    assert result["worst_tenth_accuracy"] == pytest.approx(min(each))


def test_the_worst_tenth_is_the_mean_of_the_lowest() -> None:
    built = setup(tiny("local", model=network(), partition="iid", nodes=30))
    low, *_, high = sorted(W_K, key=lambda w: by_hand(w)[0])
    w_k = [high] * 7 + [low] + [high] * 22
    lowest = [by_hand(w)[0] for w in (low, high, high)]
    result = found(built, local.State(built.fleet(1, Wire(memory())).each(w_k)), W_K[0])
    assert result["worst_tenth_accuracy"] == pytest.approx(sum(lowest) / 3)


@pytest.mark.parametrize("nodes", [True, False])
def test_a_servers_model_is_every_nodes(nodes: bool) -> None:
    built = setup(tiny("fedavg", model=network()))
    result = found(built, fedavg.State(Central(W_K[1])), W_K[1], nodes)
    assert result["mean_node_accuracy"] == result["worst_tenth_accuracy"] == result["accuracy"]


def test_every_class_has_the_accuracy_on_its_own_rows() -> None:
    """A class that the test set lacks has none."""
    whole = data()
    four = Dataset("tiny", whole.x_train, whole.y_train, whole.x_test, whole.y_test, classes=4)
    built = setup(tiny("fedavg", model=network(4), dataset=four))
    model = network(4)
    model.load_state_dict(built.task.w_0)
    with torch.no_grad():
        guessed = [int(model(x[None])[0].argmax()) for x in whole.x_test]
    truth = whole.y_test.tolist()
    by_hand = [
        sum(g == y == c for g, y in zip(guessed, truth, strict=True)) / truth.count(c) if c in truth else None
        for c in range(4)
    ]
    result = found(built, fedavg.State(Central(built.task.w_0)), built.task.w_0)
    assert result["class_accuracy"] == by_hand and by_hand[3] is None and len({*by_hand}) > 2
    assert result["node_accuracy"] is None  # every node has the server's model


def test_a_regression_has_a_loss_only() -> None:
    built = setup(tiny("fedavg", model=network(2), dataset=data(0)))
    w = built.task.w_0
    assert found(built, fedavg.State(Central(w)), w) == {"loss": pytest.approx(by_hand(w, 0)[1], rel=1e-5)}


def test_outputs_that_are_not_finite_are_never_right() -> None:
    built = setup(tiny(model=network()))
    w = {**W_K[0], "2.bias": torch.full((3,), torch.nan)}
    assert measured(built, w)[0] == 0


TEST = [[3], [0, 1, 2], [12, 4, 5, 6], [7, 8], [9, 10, 11]]


@torch.no_grad()
def scored(w: dict[str, Tensor], rows: list[int]) -> tuple[int, float]:
    """Of some test rows, row after row: how many are right, and the sum of the losses."""
    model, test = network(), data()
    model.load_state_dict(w)
    right, loss = 0, 0.0
    for row in rows:
        f = model(test.x_test[row][None])
        right += int(f[0].argmax() == test.y_test[row])
        loss += float(torch.nn.functional.cross_entropy(f, test.y_test[row][None]))
    return right, loss


@pytest.mark.parametrize("engine", ["sequential", "vectorized"])
def test_nodes_with_test_rows_of_their_own_are_measured_on_these(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH", 2)
    part = partition()._replace(test_index=[np.array(rows) for rows in TEST])
    built = setup(tiny(model=network(), partition=part, engine=engine))
    graph = built.graph(1)
    assert graph is not None
    each = []
    for i, rows in enumerate(TEST):
        group = [W_K[j] for j in (i, *graph.neighbours[i])]
        mixed = {name: sum(w[name] for w in group) / len(group) for name in group[0]}
        each.append(scored(mixed, rows)[0] / len(rows))  # type: ignore[arg-type]
    state = dfedavg.State(built.fleet(1, Wire(memory())).each(W_K))
    result = found(built, state, W_K[2])
    assert result["node_accuracy"] == pytest.approx(each)
    assert len(set(each)) > 1
    assert result["mean_node_accuracy"] == pytest.approx(sum(each) / 5)
    assert result["worst_tenth_accuracy"] == pytest.approx(min(each))
    of_all = [scored(W_K[2], rows) for rows in TEST]
    assert result["accuracy"] == pytest.approx(sum(right for right, _ in of_all) / 13)
    assert result["loss"] == pytest.approx(sum(loss for _, loss in of_all) / 13, rel=1e-5)
    assert found(built, state, W_K[2], nodes=False)["node_accuracy"] is None


def test_a_servers_model_on_every_nodes_own_test_rows() -> None:
    part = partition()._replace(test_index=[np.array(rows) for rows in TEST])
    built = setup(tiny("fedavg", model=network(), partition=part))
    result = found(built, fedavg.State(Central(W_K[1])), W_K[1], nodes=False)
    assert result["node_accuracy"] == pytest.approx([scored(W_K[1], rows)[0] / len(rows) for rows in TEST])


def test_a_regression_on_every_nodes_own_test_rows_has_the_loss_of_all() -> None:
    part = partition()._replace(test_index=[np.array(rows) for rows in TEST])
    built = setup(tiny("fedavg", model=network(2), dataset=data(0), partition=part))
    w = {name: p.detach() for name, p in network(2).named_parameters()}
    assert found(built, fedavg.State(Central(w)), w) == {"loss": pytest.approx(by_hand(w, 0)[1], rel=1e-5)}


@pytest.mark.parametrize(
    ("index", "told"),
    [
        (TEST[:4], "`test_index` must have as many nodes as `index`, 5; got 4."),
        ([*TEST[:4], []], "`test_index` must give every node at least one row; got none for node 4."),
        ([*TEST[:4], [13]], "`test_index` must list rows from 0 to 12; got 13 to 13 for node 4."),
        ([*TEST[:4], [0.5]], "`test_index` must list integers for every node; got float64 for node 4."),
    ],
)
def test_test_rows_that_are_none(index: list[Any], told: str) -> None:
    part = partition()._replace(test_index=[np.array(rows) for rows in index])
    with pytest.raises((ValueError, TypeError)) as error:
        setup(tiny(partition=part))
    assert str(error.value).startswith(told)
