import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedtangent.federation import NodeError
from fedtangent.methods.fedavg import fedavg
from fedtangent.methods.moon import contrast, moon, represented
from fedtangent.training.task import Task
from tests import tiny_federation as federation
from tests.methods.literal_server import (
    ENGINES,
    K,
    P,
    Weights,
    assert_bytes,
    average,
    drawn,
    trained,
    weights_0,
)
from tests.tiny_federation import HIDDEN, INPUTS, OUTPUTS, ROWS, assert_close, assert_same

OPTIONS: list[dict[str, Any]] = [
    {"mu": 2.0, "temperature": 0.5, "participation": 1.0, "epochs": 2, "batch": 3, "lr": 0.3, "momentum": 0.0},
    {"mu": 0.7, "temperature": 0.8, "participation": 0.5, "epochs": 3, "batch": 4, "lr": 0.1, "momentum": 0.6},
    {"mu": 1.5, "temperature": 0.5, "participation": 0.7, "epochs": 2, "batch": 3, "lr": 0.003, "optimizer": "adam"},
]


def features(w: Weights, x: Tensor) -> Tensor:
    return torch.relu(x @ w["0.weight"].T + w["0.bias"])


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))


def transcript(
    rounds: int, mu: float, temperature: float, participation: float, **local: Any
) -> tuple[Weights, dict[int, Weights]]:
    """Algorithm 1 of Li et al. 2021; and the last model that every client trained."""
    w, previous = weights_0(), dict[int, Weights]()
    for t in range(1, rounds + 1):
        clients, found = drawn(t, participation), []
        for i in clients:
            last = previous.get(i)

            def term(model: Any, x: Tensor, own: Weights | None = last, w: Weights = w) -> Tensor:
                z = features(dict(model.named_parameters()), x)
                positive = torch.exp(cosine(z, features(w, x)) / temperature)
                negative = 0 if own is None else torch.exp(cosine(z, features(own, x)) / temperature)
                return mu * -torch.log(positive / (positive + negative)).mean()

            found.append(trained(w, t, i, term, **local))
        previous |= dict(zip(clients, found, strict=True))
        w = average(found, [ROWS[i] for i in clients])
    return w, previous


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("options", OPTIONS)
def test_is_the_papers_algorithm(options: dict[str, Any], engine: str) -> None:
    found = federation.run(moon(federation.task(), **options), rounds=4, engine=federation.engine(engine, 3))
    w, previous = transcript(4, **options)
    assert_close(found.aggregate, w, 1e-10)
    assert_close(found.state.previous_k.values, [previous.get(i, weights_0()) for i in range(K)], 1e-10)
    assert [set(map(bool, met.values())) for met in found.state.met_k.values] == [{i in previous} for i in range(K)]
    assert_bytes(found.ledger, [drawn(k, options["participation"]) for k in (1, 2, 3, 4)], P + 8, P)


def test_the_contrast_by_hand() -> None:
    """Cosines 1 and 0, -1/2 and 1, then 1 and 1, at temperature 1/2."""
    z = torch.tensor([[2.0, 0.0], [1.0, 0.0], [3.0, 3.0]], dtype=torch.float64)
    z_s = torch.tensor([[5.0, 0.0], [-1.0, math.sqrt(3)], [1.0, 1.0]], dtype=torch.float64)
    z_v = torch.tensor([[0.0, 3.0], [7.0, 0.0], [2.0, 2.0]], dtype=torch.float64)
    expected = [math.log(1 + math.exp(-2)), math.log(1 + math.exp(3)), math.log(2)]
    assert_close(contrast(z, z_s, z_v, 0.5), torch.tensor(expected, dtype=torch.float64))


def test_a_client_that_has_no_model_of_its_own_yet_does_as_in_fedavg() -> None:
    """Bit for bit in round 1, and no more in round 2."""
    ours, theirs = moon(federation.task(), mu=5.0), fedavg(federation.task())
    assert_same(federation.run(ours, rounds=1).aggregate, federation.run(theirs, rounds=1).aggregate)
    w, v = federation.run(ours, rounds=2).aggregate, federation.run(theirs, rounds=2).aggregate
    assert not torch.allclose(w["0.weight"], v["0.weight"])


def test_features_that_are_all_zero_have_no_direction_and_do_no_harm() -> None:
    model = federation.network()
    model[0].weight.data.zero_()
    model[0].bias.data.fill_(-1.0)
    found = federation.run(moon(Task(model), mu=5.0), rounds=3)
    assert all(value.isfinite().all() for value in found.aggregate.values())


class Branches(nn.Module):
    """A convolution, tokens, and a classifier that is registered first and takes its input by keyword or in rows."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.last = nn.Linear(6, OUTPUTS)
        self.first = nn.Conv1d(1, 2, 7)

    def forward(self, x: Tensor) -> Tensor:
        z = self.first(x[:, None]).flatten(1)
        if self.how == "functional":
            return nn.functional.linear(z, self.last.weight, self.last.bias)
        return self.last(input=z) if self.how == "keyword" else self.last(z)


@pytest.mark.parametrize("how", ["plain", "keyword"])
def test_features_are_what_goes_into_the_last_linear_layer(how: str) -> None:
    model, x = Branches(how).double(), federation.shards()[0].x
    task = Task(model)
    w = {name: 2 * p for name, p in task.w_0.items()}
    f, z = represented(task, w, x)
    assert_close(z, 2 * model.first(x[:, None]).flatten(1).detach())
    assert_close(f, task.predict(w, x))
    assert z.shape == (4, 6)
    assert not model.last._forward_pre_hooks
    per_node = torch.func.vmap(lambda x: represented(task, w, x)[1])(x[:, None])
    assert_close(per_node[:, 0], z)


@pytest.mark.parametrize(
    ("model", "layers"),
    [
        (nn.Linear(INPUTS, OUTPUTS), "Linear"),
        (nn.Sequential(nn.Conv1d(9, HIDDEN, 1), nn.ReLU(), nn.Conv1d(HIDDEN, OUTPUTS, 1)), "Conv1d, Conv1d"),
    ],
    ids=["one layer", "no linear layer"],
)
def test_a_model_without_features_is_an_error(model: nn.Module, layers: str) -> None:
    with pytest.raises(ValueError) as caught:
        moon(Task(model))
    assert str(caught.value) == (
        f"`model` must have layers before a last linear one, whose inputs are contrasted; got {layers}. "
        "Use a deeper model, such as mlp."
    )


def test_a_linear_layer_that_is_never_called_is_an_error() -> None:
    with pytest.raises(NodeError, match=r"`model` must call a linear layer last, .* of 4 rows here; got none. End the"):
        federation.run(moon(Task(Branches("functional").double()), batch=4))


def test_a_linear_layer_on_something_else_than_rows_is_an_error() -> None:
    model = nn.Sequential(nn.Linear(INPUTS, 4), nn.Flatten(0), nn.Unflatten(0, (-1, 2)), nn.Linear(2, 2)).double()
    task = Task(nn.Sequential(model, nn.Flatten(0), nn.Unflatten(0, (-1, 4))))
    with pytest.raises(
        ValueError, match=r"^`model` must call .* of 4 rows here; got \(8, 2\). End the model in a torch"
    ):
        represented(task, task.w_0, federation.shards()[0].x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mu": -1.0}, "`mu` must not be negative; got -1.0. Use 0 for FedAvg."),
        ({"temperature": 0.0}, "`temperature` must be positive; got 0.0. Use 0.5."),
    ],
)
def test_wrong_values_are_one_clear_sentence(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        moon(federation.task(), **options)  # type: ignore[arg-type]
    assert str(caught.value) == message
