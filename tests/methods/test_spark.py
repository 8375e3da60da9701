"""SPARK as its docstring says, for no more than abstracts were read; and where it is NTK-DFL."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedtangent import losses
from fedtangent.methods.ntkdfl import ntkdfl
from fedtangent.methods.spark import spark
from fedtangent.tangents.sketch import projection
from fedtangent.training.task import Task
from tests import tiny_federation as federation
from tests.methods import literal_tangent as literal
from tests.methods.literal_gossip import K, gossip
from tests.methods.literal_server import ENGINES, P, Weights, average, each, weights_0
from tests.often import often
from tests.tiny_federation import GRAPH, OUTPUTS, ROWS, assert_close, philox

FEW: dict[str, Any] = {"times": (3, 10, 30), "lr": 2.0, "lr_decay": 0.3, "clock": "descent"}
SOFT: dict[str, Any] = {"soften": 0.6, "stage": 1, "ramp": 2, "temperature": 3.0}
OPTIONS: list[dict[str, Any]] = [
    {"columns": 70, "momentum": 0.5} | SOFT,
    {"columns": 20, "momentum": 0.0, "kernel": "full", "lr": 6.0} | SOFT,
    {"columns": None, "momentum": 0.4} | SOFT,
]


def signs(columns: int, k: int) -> Tensor:
    """R (P, columns) of a round: blocks of 64 columns, drawn by seeds one after the other."""
    seed = int(philox("projection", k).integers(2**62))
    blocks = []
    for start in range(0, columns, 64):
        size = min(64, columns - start)
        tree = projection(federation.task().w_0, size, seed + start)
        blocks.append(torch.cat([part.flatten(1) for part in tree.values()], 1).T.sign())
    return torch.cat(blocks, 1) / columns**0.5


def transcript(
    rounds: int,
    columns: int | None,
    momentum: float,
    soften: float,
    stage: int,
    ramp: int,
    temperature: float,
    **step: Any,
) -> list[Weights]:
    """The docstring's rounds, with Jacobians written out."""
    data, w = federation.shards(), [weights_0() for _ in ROWS]
    v = [each(torch.zeros_like, part) for part in w]
    for k in range(1, rounds + 1):
        mean, last, new = gossip(w), gossip(v), []
        for i in range(K):
            near = [i, *GRAPH.neighbours[i]]
            x, y = (torch.cat([data[j][part] for j in near]) for part in (0, 1))
            start = each(lambda u, v: u + momentum * v, mean[i], last[i])
            j, f_0, n = literal.jacobian(start, x), literal.outputs(start, x), len(x)
            s = j if columns is None else j @ signs(columns, k)
            share = soften * min(max((k - stage) / ramp, 0), 1)
            target = (1 - share) * nn.functional.one_hot(y, OUTPUTS).double() + share * (f_0 / temperature).softmax(1)
            if step.get("kernel") == "full":
                full = torch.einsum("ncp,mdp->ncmd", s, s)
            else:
                full = torch.einsum(
                    "nm,cd->ncmd", torch.einsum("ncp,mcp->nm", s, s) / OUTPUTS, torch.eye(OUTPUTS).double()
                )
            alpha, tries = torch.zeros_like(f_0), []
            for t in range(1, max(step["times"]) + 1):
                f = f_0 - torch.einsum("ncmd,md->nc", full, alpha)
                alpha = alpha + step["lr"] * np.exp(-step["lr_decay"] * (k - 1)) * (f.softmax(1) - target) / n
                if t in step["times"]:
                    tries.append(literal.shifted(start, -torch.einsum("ncp,nc->p", j, alpha)))
            new.append(min(tries, key=lambda w: float(literal.mean_loss(w, x, y, "cross_entropy"))))
        v = [each(torch.sub, new[i], mean[i]) for i in range(K)]
        w = new
    return w


@pytest.mark.parametrize("engine", often(ENGINES, ["vectorized"]))
@pytest.mark.parametrize("options", OPTIONS)
def test_is_what_its_docstring_says(options: dict[str, Any], engine: str) -> None:
    options = FEW | options
    found = federation.run(spark(federation.task(), **options), rounds=3, engine=federation.engine(engine, 3))
    expected = transcript(3, **options)
    assert_close(found.state.w_k.values, expected, 1e-8)
    assert_close(found.aggregate, average(expected), 1e-8)


def test_without_projection_and_soft_labels_it_is_ntkdfl_with_momentum() -> None:
    for momentum in (0.0, 0.5):
        made = spark(federation.task(), columns=None, soften=0.0, momentum=momentum, **FEW)
        expected = federation.run(ntkdfl(federation.task(), exchange="factors", momentum=momentum, **FEW), rounds=3)
        found = federation.run(made, rounds=3)
        assert_close(found.state.w_k.values, expected.state.w_k.values, 1e-12)
        assert found.ledger.sent == expected.ledger.sent


def test_the_flow_of_a_projection_of_many_columns_comes_near_to_that_of_none() -> None:
    options: dict[str, Any] = {"soften": 0.0, "momentum": 0.0, "times": (5,), "lr": 1.0}
    exact = federation.run(spark(federation.task(), columns=None, **options), rounds=1).aggregate["0.weight"]
    off = [
        float(
            (
                federation.run(spark(federation.task(), columns=columns, **options), rounds=1).aggregate["0.weight"]
                - exact
            ).norm()
        )
        for columns in (10, 4000)
    ]
    assert off[1] < off[0] / 5


def test_bytes_are_those_of_sketches_alphas_and_steps() -> None:
    columns, times = 7, 2
    made = spark(federation.task(), columns=columns, times=(1, 4), lr=0.1)
    sent = federation.run(made, rounds=1).ledger.sent
    for i in range(K):
        near = GRAPH.neighbours[i]
        rows = ROWS[i] + sum(ROWS[j] for j in near)
        asked = (
            2 * P + P + 8 * rows * (times * OUTPUTS + 1) + times * P
        )  # weights, displacements; where from; candidates
        scores = 8 * (times + 1 + times)  # losses, rows, and the rows of losses that are not finite
        answer = 8 * ROWS[i] * (OUTPUTS * (columns + 1) + 2) + times * P + scores
        assert sent[i] == len(near) * (asked + answer)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": 0}, "`columns` must be at least 1; got 0. Use 1000, or none to project nothing."),
        ({"soften": 1.0}, "`soften` must be in [0, 1); got 1.0. Use 0 for none."),
        ({"momentum": -0.1}, "`momentum` must be in [0, 1); got -0.1. Use 0 for none."),
        ({"ramp": 0}, "`stage` and `ramp` must be at least 0 and 1; got 5 and 0. Use 5 and 10."),
        ({"temperature": 0}, "`temperature` must be positive; got 0. Use 2."),
    ],
)
def test_wrong_values_are_one_clear_sentence(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        spark(federation.task(), **options)
    assert str(caught.value) == message


def test_a_loss_of_ones_own_takes_no_soft_labels() -> None:
    own = losses.custom(nn.functional.cross_entropy, name="own", curvature=1.0)
    with pytest.raises(ValueError, match=r"^`soften` must be 0 for a loss of your own, .*; got 0\.2\. Set it to 0\.$"):
        spark(Task(federation.network(), own))
    spark(Task(federation.network(), own), soften=0.0)
