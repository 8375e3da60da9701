"""What the transcripts of methods between neighbours share: who weighs what, batches, and gradients of them."""

from collections.abc import Callable, Sequence

import torch

from fedtangent.federation import Graph
from tests import tiny_federation as federation
from tests.methods.literal_server import Weights
from tests.tiny_federation import GRAPH, ROWS, philox

K = len(ROWS)


def gossip(x: Sequence[Weights], uniform: bool = True, graph: Graph = GRAPH) -> list[Weights]:
    """sum_j W_ij x_j for every node i."""
    mixed = []
    for i in range(len(x)):
        near = graph.neighbours[i]
        weight = {j: 1 / (1 + (len(near) if uniform else max(len(near), len(graph.neighbours[j])))) for j in near}
        own = 1 - sum(weight.values())
        mixed.append({p: own * part + sum(weight[j] * x[j][p] for j in near) for p, part in x[i].items()})
    return mixed


def gradient(w: Weights, node: int, rows: torch.Tensor) -> Weights:
    """Of the mean cross-entropy of some rows of a node."""
    model, (x, y, _) = federation.network(), federation.shards()[node]
    model.load_state_dict(w)
    torch.nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
    return {name: p.grad for name, p in model.named_parameters()}  # type: ignore[misc]


def batches(k: int, node: int, epochs: int, batch: int) -> list[torch.Tensor]:
    """The rows of every step of a round: of all epochs, or of one batch where there is none."""
    rng = philox("batches", k, node)
    found = [rows for _ in range(max(epochs, 1)) for rows in torch.from_numpy(rng.permutation(ROWS[node])).split(batch)]
    return found if epochs else found[:1]


def stepped(
    w: Weights, k: int, node: int, epochs: int, batch: int, move: Callable[[Weights, Weights], Weights]
) -> Weights:
    """w after `move(w, gradient)` for every step of a round."""
    for rows in batches(k, node, epochs, batch):
        w = move(w, gradient(w, node, rows))
    return w
