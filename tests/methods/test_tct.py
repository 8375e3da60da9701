from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedtangent.experiments.run import run
from fedtangent.methods.fedavg import fedavg
from fedtangent.methods.tct import tct
from fedtangent.training.task import Task
from tests import tiny_federation as federation
from tests.experiments import tiny
from tests.methods.literal_server import ENGINES, K, P, Weights, average
from tests.tiny_federation import HIDDEN, OUTPUTS, ROWS, assert_close, assert_same, philox

FIRST: dict[str, Any] = {"epochs": 2, "batch": 3, "lr": 0.2}
OPTIONS: list[dict[str, Any]] = [
    {"first_rounds": 1, "features": 60, "steps": 7, "linear_lr": 0.3} | FIRST,
    {"first_rounds": 0, "features": 10**6, "steps": 4, "linear_lr": 0.05, "aggregation": "weighted"} | FIRST,
]


def phi(w: Weights, x: Tensor, features: int) -> Tensor:
    """Some entries of the gradients of one random output, of a network that really ends in it."""
    rng = philox("tangent features", 0)
    v = torch.from_numpy(rng.uniform(-(HIDDEN**-0.5), HIDDEN**-0.5, HIDDEN))
    model = nn.Sequential(*federation.network()[:2], nn.Linear(HIDDEN, 1).double())
    model[0].load_state_dict({"weight": w["0.weight"], "bias": w["0.bias"]})
    model[2].load_state_dict({"weight": v[None], "bias": torch.zeros(1).double()})
    grads = [
        torch.cat([g.flatten() for g in torch.autograd.grad(model(row)[0], list(model.parameters()))]) for row in x
    ]
    whole = torch.stack(grads)
    kept = np.sort(rng.permutation(whole.shape[1])[:features])
    return whole[:, kept]


def transcript(
    rounds: int,
    first_rounds: int,
    features: int,
    steps: int,
    linear_lr: float,
    aggregation: str = "plain",
    **first: Any,
) -> tuple[Weights, Tensor, list[Tensor]]:
    """Algorithm 1 of Yu et al. 2022: FedAvg, then SCAFFOLD on the linear model of tangent features."""
    data = federation.shards()
    w = (
        federation.run(fedavg(federation.task(), **first), rounds=first_rounds).aggregate
        if first_rounds
        else federation.task().w_0
    )
    maps = [phi(w, x, features) for x, _, _ in data]
    theta = torch.zeros(maps[0].shape[1], OUTPUTS).double()
    c, c_i = torch.zeros_like(theta), [torch.zeros_like(theta)] * K
    n = ROWS if aggregation == "weighted" else None
    for _ in range(rounds - first_rounds):
        ends, changes = [], []
        for i in range(K):
            target = nn.functional.one_hot(data[i].y, OUTPUTS).double() - 1 / OUTPUTS
            own = theta.clone().requires_grad_()
            for _ in range(steps):
                (g,) = torch.autograd.grad(nn.functional.mse_loss(maps[i] @ own, target), own)
                own = (own - linear_lr * (g + c - c_i[i])).detach().requires_grad_()
            plus = c_i[i] - c + (theta - own.detach()) / (steps * linear_lr)
            changes.append({"": plus - c_i[i]})
            ends.append({"": own.detach()})
            c_i[i] = plus
        theta, c = average(ends, n)[""], c + average(changes, n)[""]
    return w, theta, c_i


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("options", OPTIONS)
def test_is_the_papers_algorithm(options: dict[str, Any], engine: str) -> None:
    made = tct(federation.task(), **options)
    found = federation.run(made, rounds=4, engine=federation.engine(engine, 3))
    w, theta, c_i = transcript(4, **options)
    assert_close(found.state.w.value, w, 1e-11)
    assert_close(found.state.theta.value, theta, 1e-10)
    assert_close(found.state.c_k.values, c_i, 1e-10)
    assert made.predict is not None
    x = federation.shards(seed=9)[2].x
    assert_close(made.predict(found.aggregate, x), phi(w, x, options["features"]) @ theta, 1e-10)
    later, size = 4 - options["first_rounds"], 8 * theta.numel()
    up = (P + 8) * options["first_rounds"] + later * (2 * size + 8 * ("aggregation" in options))
    assert {node: found.ledger.sent[node] for node in range(K)} == dict.fromkeys(range(K), up)


def test_the_first_rounds_are_fedavg() -> None:
    found = federation.run(tct(federation.task(), first_rounds=3, **FIRST), rounds=3)
    assert_same(found.aggregate, federation.run(fedavg(federation.task(), **FIRST), rounds=3).aggregate)


def test_the_second_stage_comes_to_the_least_squares_of_all_rows_together() -> None:
    """It is convex, so that no client's drift is left of it."""
    options: dict[str, Any] = {"first_rounds": 0, "features": 3, "steps": 5, "linear_lr": 40.0}
    made = tct(federation.task(), aggregation="weighted", **options)
    theta = federation.run(made, rounds=200).state.theta.value
    x, y, _ = (torch.cat(part) for part in zip(*federation.shards(), strict=True))
    features = phi(federation.task().w_0, x, 3)
    target = nn.functional.one_hot(y, OUTPUTS).double() - 1 / OUTPUTS
    assert_close(theta, torch.linalg.lstsq(features, target).solution, 1e-6)


def test_what_is_measured_are_the_linear_models_outputs_and_the_run_is_recorded(tmp_path: Any) -> None:
    asked = tiny.tiny("tct", first_rounds=1, steps=200, linear_lr=0.1, features=20, rounds=3)
    result = run(asked, tmp_path / "run")
    assert result.weights["tct.theta"].shape == (20, 3)
    data = tiny.data()
    made = tct(Task(result.model), features=20)
    assert made.predict is not None
    right = (made.predict(result.weights, data.x_test).argmax(1) == data.y_test).double().mean()
    assert result.rounds[-1]["accuracy"] == pytest.approx(float(right))
    assert result.rounds[-1]["accuracy"] != result.rounds[0]["accuracy"]
    longer = run(
        tiny.tiny("tct", first_rounds=1, steps=200, linear_lr=0.1, features=20, rounds=5), tmp_path / "run", resume=True
    )
    whole = run(tiny.tiny("tct", first_rounds=1, steps=200, linear_lr=0.1, features=20, rounds=5))
    assert_same(longer.weights, whole.weights)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"first_rounds": -1}, "`first_rounds` must be at least 0; got -1. Give such a number."),
        ({"features": 0}, "`features` must be at least 1; got 0. Give such a number."),
        ({"steps": 0}, "`steps` must be at least 1; got 0. Give such a number."),
        ({"linear_lr": 0.0}, "`linear_lr` must be positive and finite; got 0.0. Use 0.001."),
        ({"aggregation": "rows"}, "`aggregation` must be 'plain' or 'weighted'; got 'rows'. Choose one of the two."),
    ],
)
def test_wrong_values_are_one_clear_sentence(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        tct(federation.task(), **options)
    assert str(caught.value) == message


def test_a_model_that_goes_on_after_its_last_layer_is_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Softmax(1))
    with pytest.raises(ValueError, match=r"^`model` must give the outputs of its last linear layer, '0\.'; got 0\.333"):
        tct(Task(model, example=torch.ones(2, 4)))
