from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedtangent.methods.fedavg import fedavg
from fedtangent.methods.fedfisher import fedfisher, fisher
from fedtangent.training import losses
from fedtangent.training.task import Task
from tests import tiny_federation as federation
from tests.methods.literal_server import ENGINES, K, P, Weights, average, each, scalar, weights_0
from tests.methods.literal_sgd import train
from tests.tangents.networks import weights
from tests.tiny_federation import assert_close, philox

LOCAL: dict[str, Any] = {"epochs": 3, "batch": 3, "lr": 0.1, "momentum": 0.5}
OPTIONS: list[dict[str, Any]] = [
    {"steps": 40, "every": 10, "server_lr": 0.02} | LOCAL,
    {"steps": 25, "every": 10, "server_lr": 0.05, "selection": "loss"} | LOCAL,
]


def diagonal(w: Weights, x: Tensor) -> Weights:
    """The sum over rows of E (d log p / dw)^2, with labels drawn as the model itself would, by explicit expectation."""
    model = federation.network()
    model.load_state_dict(w)
    total = each(torch.zeros_like, w)
    for row in x:
        for label in range(federation.OUTPUTS):
            log_p = model(row).log_softmax(0)
            g = torch.autograd.grad(log_p[label], list(model.parameters()))
            p = log_p[label].exp().detach()
            total = {name: total[name] + p * part**2 for name, part in zip(total, g, strict=True)}
    return total


def transcript(steps: int, every: int, server_lr: float, selection: str = "held-out", **local: Any) -> Weights:
    """The one round of Jhunjhunwala et al. 2024, with the server's steps of its authors' code."""
    z, f, held, n = [], [], [], []
    for i, (x, y, _) in enumerate(federation.shards()):
        order = torch.from_numpy(philox("held-out", 1, i).permutation(len(x)))
        aside = min(max(len(x) // 10, 1), len(x) - 1) if selection == "held-out" else 0
        kept, away = order[aside:], order[:aside]
        if selection == "loss":
            kept = away = torch.arange(len(x))
        model = federation.network()
        train(model, x[kept], y[kept], philox("batches", 1, i), by="sgd", **local)
        z.append({name: p.detach() for name, p in model.named_parameters()})
        f.append(diagonal(z[-1], x[kept]))
        held.append((x[away], y[away]))
        n.append(len(kept))
    u = average(z, n)
    m, v, tries = each(torch.zeros_like, u), each(torch.zeros_like, u), [u]
    for step in range(1, steps + 1):
        g = each(
            lambda *parts: sum(
                f_i * (parts[0] - z_i) for f_i, z_i in zip(parts[1 : K + 1], parts[K + 1 :], strict=True)
            ),
            u,
            *f,
            *z,
        )  # type: ignore[misc]
        m = each(lambda m, g: 0.9 * m + g, m, g)
        v = each(lambda v, g: 0.99 * v + g**2, v, g)
        u = each(lambda u, m, v: u - server_lr * m / (v.sqrt() + 0.01), u, m, v)
        if step % every == 0 or step == steps:
            tries.append(u)

    def loss(w: Weights) -> float:
        model = federation.network()
        model.load_state_dict(w)
        with torch.no_grad():
            return sum(
                float(torch.nn.functional.cross_entropy(model(x), y, reduction="sum")) for x, y in held if len(x)
            )

    return min(tries, key=loss)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("options", OPTIONS)
def test_is_the_papers_algorithm(options: dict[str, Any], engine: str) -> None:
    made = fedfisher(federation.task(), **options)
    found = federation.run(made, rounds=2, engine=federation.engine(engine, 3))
    assert_close(found.aggregate, transcript(**options), 1e-9)
    tries = -(-options["steps"] // options["every"]) + 1
    assert {node: found.ledger.received[node] for node in range(K)} == dict.fromkeys(range(K), P * (1 + tries))
    up = 3 * P + 8 + 8 * (tries + 1 + tries)  # and losses, their rows, and the rows of those that are not finite
    assert {node: found.ledger.sent[node] for node in range(K)} == dict.fromkeys(range(K), up)
    assert found.extras[1] == {}


def test_a_candidate_beyond_the_mean_is_chosen_here() -> None:
    """So that the transcripts tell more than an average."""
    found = federation.run(fedfisher(federation.task(), **OPTIONS[0]), rounds=1).extras[0]["choice"]
    assert found > 1


def test_without_way_from_the_mean_it_is_one_round_of_fedavg() -> None:
    options: dict[str, Any] = {"steps": 1, "server_lr": 1e-15, "selection": "loss"} | LOCAL
    found = federation.run(fedfisher(federation.task(), **options), rounds=1)
    assert_close(found.aggregate, federation.run(fedavg(federation.task(), **LOCAL), rounds=1).aggregate, 1e-11)


def test_by_hand_clients_that_agree_are_left_where_they_are_and_curvature_weighs_the_others() -> None:
    """f = w x: curvature x^2. At inputs 1 and 3, each at its own optimum, the minimum is (1 z_1 + 9 z_2) / 10."""
    task, data = scalar([2.0], [4.0])
    data[1] = data[1]._replace(x=3 * data[1].x, y=3 * data[1].y)  # optima 2 and 4
    options: dict[str, Any] = {"epochs": 40, "batch": 1, "lr": 0.1, "momentum": 0.0, "selection": "loss"}
    found = federation.run(fedfisher(task, steps=20000, every=20000, server_lr=1e-3, **options), data, rounds=1)
    assert float(found.aggregate["weight"]) == pytest.approx(3.8, abs=0.02)


@pytest.mark.parametrize("loss", [losses.cross_entropy, losses.squared])
def test_the_diagonal_is_that_of_the_gauss_newton_matrix(loss: losses.Loss) -> None:
    task, data = Task(federation.network(), loss), federation.shards()[2]
    w = {name: p + 0.1 for name, p in weights(task.model).items()}
    j = torch.func.jacrev(lambda w: task.predict(w, data.x))(w)
    root = losses.curvature_root(loss, task.predict(w, data.x), data.y)
    expected = {name: (torch.einsum("nck,nc...->nk...", root, part) ** 2).sum((0, 1)) for name, part in j.items()}
    assert_close(fisher(task, w, data), expected, 1e-11)
    if loss is losses.cross_entropy:
        assert_close(fisher(task, weights_0(), data), diagonal(weights_0(), data.x), 1e-11)


class Recurrent(nn.Module):
    """A GRU over a row's features, which torch does not map over rows."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.series, self.head = nn.GRU(1, 4, batch_first=True), nn.Linear(4, federation.OUTPUTS)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.series(x[:, :, None])[0][:, -1])  # type: ignore[no-any-return]


class Branched(nn.Module):
    """One of two layers for a row, by its first feature."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.low, self.high = (nn.Linear(federation.INPUTS, federation.OUTPUTS) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([(self.low if row[0] < 0 else self.high)(row) for row in x])


@pytest.mark.parametrize("model", [Recurrent(), Branched()])
def test_models_that_cannot_be_mapped_over_rows(model: nn.Module) -> None:
    model = model.double()
    task, data = Task(model, losses.cross_entropy), federation.shards()[2]
    expected = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for row in data.x:
        log_p = model(row[None])[0].log_softmax(0)
        for label in range(federation.OUTPUTS):
            g = torch.autograd.grad(log_p[label], list(model.parameters()), retain_graph=True, materialize_grads=True)
            for name, part in zip(expected, g, strict=True):
                expected[name] += log_p[label].exp().detach() * part**2
    assert_close(fisher(task, weights(model), data), expected, 1e-11)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "`steps` must be at least 1; got 0. Use 2000 steps, and one in 100."),
        ({"every": 0}, "`every` must be at least 1; got 0. Use 2000 steps, and one in 100."),
        ({"server_lr": 0.0}, "`server_lr` must be positive and finite; got 0.0. Use 0.01."),
        ({"selection": "best"}, "`selection` must be 'held-out' or 'loss'; got 'best'. Choose one of the two."),
    ],
)
def test_wrong_values_are_one_clear_sentence(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        fedfisher(federation.task(), **options)
    assert str(caught.value) == message
