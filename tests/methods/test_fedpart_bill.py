"""What FedPart saves on ResNet-8, the paper's model: multiply-adds that really run, on both engines."""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from fedtangent.catalog import load
from fedtangent.methods.fedpart import fedpart
from fedtangent.shard import Shard
from fedtangent.training.task import Task
from tests import tiny_federation as federation
from tests.often import often

FORWARD = 14_469_632  # of one 3 x 32 x 32 image
STEM = 2_408_448  # whose inputs need no gradient
CLIENTS, CYCLE = 2, 25


def shards() -> list[Shard]:
    """One image a client: a round is one step."""
    rng = np.random.default_rng(5)
    return [
        Shard(
            torch.from_numpy(rng.normal(size=(1, 3, 32, 32)).astype(np.float32)),
            torch.from_numpy(rng.integers(0, 10, 1)),
            torch.ones(1, dtype=torch.bool),
        )
        for _ in range(CLIENTS)
    ]


@cache
def work(method: str, engine: str) -> tuple[list[int], int]:
    """Multiply-adds of each round, of one client, and the bytes that the server received."""
    model = load("models", "resnet8")((3, 32, 32), 10, np.random.default_rng(1))
    task = Task(model, example=torch.zeros(1, 3, 32, 32))
    options: dict[str, Any] = {"batch": 1, "lr": 0.01}
    host = load("methods", "fedavg")
    made = fedpart(task, host=lambda task: host(task, **options)) if method == "fedpart" else host(task, **options)
    fleet = federation.fleet(CLIENTS, engine=federation.engine(engine, CLIENTS), seed=0, round=0, graph=None)
    data_k = fleet.each(shards())
    state, found = made.init(fleet, data_k), []
    for k in range(1, CYCLE + 1):
        now = replace(fleet, round=k)
        state, _ = made.round(now, state, data_k, k)
        found.append(fleet.ledger.work[0])
    assert fleet.ledger.work[1] == found[-1]
    return np.diff([0, *found]).tolist(), fleet.ledger.received[-1]


@pytest.mark.parametrize("engine", often(["sequential", "vectorized"], ["vectorized"]))
def test_a_cycle_runs_at_most_six_tenths_of_full_updates(engine: str) -> None:
    (partial, up), (full, up_full) = work("fedpart", engine), work("fedavg", engine)
    assert full == [3 * FORWARD - STEM] * CYCLE  # forward, and both gradients
    assert partial[:5] == full[:5]
    assert all(a == b for a, b in zip(partial[5::2], partial[6::2], strict=True))  # two rounds a group
    assert partial[5:][::2] == sorted(partial[5:][::2], reverse=True)  # the deeper the group, the less is passed back
    assert partial[-1] == FORWARD + 256 * 10  # the classifier: one forward pass, one gradient of weights
    assert partial[5] == 2 * FORWARD  # the stem: all activations but the inputs', one gradient of weights
    assert sum(partial) / sum(full) == pytest.approx(0.598, abs=5e-4)
    # the paper: a full step costs three forward passes; 0.577 where the stem's inputs have a gradient too
    assert (sum(partial[5:]) + 5 * 3 * FORWARD) / (CYCLE * 3 * FORWARD) == pytest.approx(0.576, abs=5e-4)
    count = 8 * CLIENTS * CYCLE
    assert (up - count) * 100 == (up_full - count) * 28


def test_the_engines_run_the_same() -> None:
    assert work("fedpart", "vectorized") == work("fedpart", "sequential")
