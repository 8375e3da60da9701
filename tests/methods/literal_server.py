"""What the transcripts of methods with a server share: who is drawn, local training, and sums of weights by name."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fedtangent.federation import SERVER, Ledger
from fedtangent.shard import Shard
from fedtangent.training import losses
from fedtangent.training.task import Task
from tests import tiny_federation as federation
from tests.methods.literal_sgd import train
from tests.tiny_federation import ROWS, philox

K = len(ROWS)
P = 8 * (9 * 10 + 10 + 10 * 3 + 3)  # the bytes of one model
ENGINES = ("sequential", "vectorized")
Weights = dict[str, Tensor]


def weights_0() -> Weights:
    """The first weights."""
    return {name: p.detach().clone() for name, p in federation.network().named_parameters()}


def drawn(k: int, participation: float) -> list[int]:
    """The clients of round k."""
    return sorted(philox("cohort", k).choice(K, max(int(participation * K), 1), replace=False).tolist())


def trained(
    w: Weights,
    k: int,
    client: int,
    term: Callable[[nn.Module, Tensor], Tensor] | None = None,
    *,
    epochs: int,
    batch: int,
    lr: float,
    momentum: float = 0.0,
    optimizer: str = "sgd",
) -> Weights:
    """What a client makes of w in round k."""
    model, (x, y, _) = federation.network(), federation.shards()[client]
    model.load_state_dict(w)
    train(model, x, y, philox("batches", k, client), epochs, batch, lr, momentum, optimizer, term)
    return {name: p.detach() for name, p in model.named_parameters()}


def each(fn: Callable[..., Tensor], *trees: Weights) -> Weights:
    """fn of the tensors of the same name."""
    return {name: fn(*(tree[name] for tree in trees)) for name in trees[0]}


def average(trees: Sequence[Weights], counts: Sequence[float] | None = None) -> Weights:
    """The mean, weighted by counts where they are given."""
    n = [1.0] * len(trees) if counts is None else counts
    return {name: sum(c * tree[name] for c, tree in zip(n, trees, strict=True)) / sum(n) for name in trees[0]}  # type: ignore[misc]


def assert_bytes(ledger: Ledger, clients: Sequence[Sequence[int]], up: int, down: int) -> None:
    """Every client has sent and received so many bytes in every round in which it took part."""
    visits = {node: sum(node in some for some in clients) for node in range(K)}
    assert {node: ledger.sent[node] for node in visits} == {node: up * count for node, count in visits.items()}
    assert {node: ledger.received[node] for node in visits} == {node: down * count for node, count in visits.items()}
    assert ledger.sent[SERVER] == down * sum(visits.values())
    assert ledger.received[SERVER] == up * sum(visits.values())


def scalar(*targets: Sequence[float]) -> tuple[Task, list[Shard]]:
    """f = w with w_0 = 0 and the loss (w - y)^2 / 2; a client for every list of targets."""
    model = nn.Linear(1, 1, bias=False).double()
    model.weight.data.zero_()
    data = [
        Shard(
            torch.ones(len(y), 1, dtype=torch.float64),
            torch.tensor(y, dtype=torch.float64)[:, None],
            torch.ones(len(y), dtype=torch.bool),
        )
        for y in targets
    ]
    return Task(model, losses.squared), data


def by_hand(method: Any, data: list[Shard], rounds: int) -> list[float]:
    """The server's w of such a federation after every round."""
    return [float(federation.run(method, data, rounds=k).aggregate["weight"]) for k in range(1, rounds + 1)]
