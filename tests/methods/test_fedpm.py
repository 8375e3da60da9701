from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedtangent.methods.afl import afl
from fedtangent.methods.fedpm import fedpm
from fedtangent.shard import Shard
from fedtangent.tangent_steps import foof, kfac
from fedtangent.training import losses
from fedtangent.training.task import Task
from tests import tiny_federation as federation
from tests.methods.literal_gossip import batches, gradient
from tests.methods.literal_kfac import LAYERS, layer_inputs
from tests.methods.literal_server import ENGINES, Weights, drawn, each, weights_0
from tests.tangents.literal_moments import KRONECKER, rows
from tests.tangents.networks import weights
from tests.tiny_federation import INPUTS, OUTPUTS, ROWS, assert_close

OPTIONS: list[dict[str, Any]] = [
    {"damping": 0.5, "participation": 1.0, "epochs": 2, "batch": 3, "lr": 0.2},
    {"damping": 2.0, "participation": 0.8, "epochs": 1, "batch": 100, "lr": 0.7, "aggregation": "weighted"},
]


def joined(w: Weights, layer: str) -> Tensor:
    """The layer's matrix with its bias as the last column."""
    return torch.cat([w[f"{layer}.weight"], w[f"{layer}.bias"][:, None]], 1)


def apart(matrices: list[Tensor]) -> Weights:
    found = {}
    for layer, matrix in zip(LAYERS, matrices, strict=True):
        found |= {f"{layer}.weight": matrix[:, :-1], f"{layer}.bias": matrix[:, -1]}
    return found


def covariances(w: Weights, x: Tensor) -> list[Tensor]:
    """The mean of u u^T of both layers."""
    return [
        sum(torch.outer(u, u) for u in its) / len(x) for its in zip(*(layer_inputs(w, row) for row in x), strict=True)
    ]  # type: ignore[misc]


def transcript(
    rounds: int, damping: float, participation: float, epochs: int, batch: int, lr: float, aggregation: str = "plain"
) -> Weights:
    """The rounds of Ishii et al. 2026: theta_i <- theta_i - eta P_i^-1 g_i, theta <- (sum P_i)^-1 sum P_i theta_i."""
    w = weights_0()
    for t in range(1, rounds + 1):
        above, below = [torch.zeros(())] * 2, [torch.zeros(())] * 2
        for i in drawn(t, participation):
            x = federation.shards()[i].x
            p = [a + damping * torch.eye(len(a)) for a in covariances(w, x)]
            theta = w
            for chosen in batches(t, i, epochs, batch):
                g = gradient(theta, i, chosen)
                steps = apart([joined(g, layer) @ p_l.inverse() for layer, p_l in zip(LAYERS, p, strict=True)])
                theta = each(lambda w, step: w - lr * step, theta, steps)
            for number, layer in enumerate(LAYERS):
                weight = ROWS[i] if aggregation == "weighted" else 1
                above[number] = above[number] + weight * joined(theta, layer) @ p[number]
                below[number] = below[number] + weight * p[number]
        w = apart([a @ b.inverse() for a, b in zip(above, below, strict=True)])
    return w


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("options", OPTIONS)
def test_is_the_papers_algorithm(options: dict[str, Any], engine: str) -> None:
    made = fedpm(federation.task(), guard=False, **options)
    found = federation.run(made, rounds=3, engine=federation.engine(engine, 3))
    assert_close(found.aggregate, transcript(3, **options), 1e-9)
    up = sum(n * (n + 1) // 2 for n in (INPUTS + 1, federation.HIDDEN + 1)) + federation.task().size + 1
    visits = [drawn(k, options["participation"]) for k in (1, 2, 3)]
    assert [found.ledger.sent[node] for node in range(len(ROWS))] == [
        8 * up * sum(node in some for some in visits) for node in range(len(ROWS))
    ]


def test_with_one_local_step_it_is_the_step_with_a_alone() -> None:
    """FedKFAC's gradient and A of all rows, with 1 in the place of every B: w - lr g (A + damping)^-1."""
    task, data, damping, lr = federation.task(), federation.shards(), 0.3, 0.6
    made = fedpm(task, damping=damping, epochs=1, batch=100, lr=lr, aggregation="weighted")
    found = federation.run(made, data, rounds=1).aggregate
    pooled = Shard(*(torch.cat([shard[part] for shard in data]) for part in range(3)))
    total = kfac.moments(task, task.w_0, pooled)
    expected = {}
    for layer in LAYERS:
        g, a = joined(total.gradient, layer) / sum(ROWS), foof.damped(total.inputs, total.rows, damping)
        step = g @ a[f"{layer}.weight,{layer}.bias"][0].inverse()
        expected |= {f"{layer}.weight": task.w_0[f"{layer}.weight"] - lr * step[:, :-1]}
        expected |= {f"{layer}.bias": task.w_0[f"{layer}.bias"] - lr * step[:, -1]}
    assert_close(found, expected, 1e-11)


def test_on_one_linear_layer_with_the_squared_loss_one_step_is_ridge_regression() -> None:
    """AFL, whose ridge is in units of sums; a loss of (f - y)^2 / (2 C) takes lr C, and a damping pulls to w_0 = 0."""
    model = nn.Linear(INPUTS, OUTPUTS).double()
    for p in model.parameters():
        p.data.zero_()
    task, data, damping = Task(model, losses.squared), federation.shards(), 0.05
    options: dict[str, Any] = {"epochs": 1, "batch": 100, "lr": float(OUTPUTS), "aggregation": "weighted"}
    found = federation.run(fedpm(task, damping=damping, **options), data, rounds=1).aggregate
    assert_close(found, federation.run(afl(task, ridge=damping * sum(ROWS)), data, rounds=1).aggregate, 1e-11)


@pytest.mark.parametrize("name", KRONECKER)
def test_every_linear_map_is_multiplied_and_solved_and_its_inputs_are_those_of_all_moments(name: str) -> None:
    model, data = KRONECKER[name].model, rows(KRONECKER[name])
    task, w = Task(model), weights(model)
    a, count = kfac.all_inputs(task, w, data)
    expected = kfac.moments(task, w, data).inputs
    assert set(a) == set(expected)
    for key, part in a.items():
        assert_close(part, expected[key], 1e-11)
    p = foof.damped(a, count, 0.7)
    assert_close(foof.solved(foof.factored(p), foof.times(p, w)), {name: w[name] for name in w}, 1e-9)
    assert any(not torch.allclose(foof.times(p, w)[name], w[name], rtol=1e-3) for name in w)


def test_a_sum_that_would_show_a_client_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^`nodes` must be at least 3 in a sum; got 1\. Raise participation or nodes"):
        federation.run(fedpm(federation.task(), participation=0.2), rounds=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"damping": 0.0}, "`damping` must be positive; got 0.0. Use 1."),
        ({"aggregation": "rows"}, "`aggregation` must be 'plain' or 'weighted'; got 'rows'. Choose one of the two."),
    ],
)
def test_wrong_values_are_one_clear_sentence(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        fedpm(federation.task(), **options)
    assert str(caught.value) == message
