"""RelaySGD: on a tree every node passes on what it hears, so that each model enters all averages alike, only later.

Vogels, He, Koloskova, Karimireddy, Lin, Stich, Jaggi. RelaySum for Decentralized Deep Learning on Heterogeneous Data.
NeurIPS 2021, Algorithm 1. arXiv 2110.04175.

    node:    w_k <- w_0,  m_lk <- 0,  c_lk <- 0              for every neighbour l in a tree of K nodes
    round:   z_k <- w_k - eta g_k                            g_k the gradient of one batch of data_k at w_k
             m_lk <- z_l + sum of last m_jl,  c_lk <- 1 + sum of last c_jl     over l's neighbours j but k
             w_k <- (sum_l m_lk + (K - sum_l c_lk) z_k) / K
    at last  w   <- 1/K sum_k w_k                            or weighted by n_k
"""

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from fedtangent import trees
from fedtangent.errors import SettingError
from fedtangent.federation import Each, Fleet, Graph, Inbox, Message, Method, Traits, node_mean, of_nodes
from fedtangent.shard import Shard
from fedtangent.task import Task, Weights
from fedtangent.training import solvers
from fedtangent.training.solvers import Batches


class Relay(NamedTuple):
    """A message. total: the sum of the models behind it, like the weights. models: how many they are, ()."""

    total: Weights
    models: Tensor


class State(NamedTuple):
    """Every node's.

    Attributes:
        w_k: Weights, after averaging.
        u_k: The momentum of its own gradients; empty without momentum.
        heard_k: The last round's messages, an Inbox of Relays.
        near_k: Its neighbours' numbers, an Inbox in the same order.
    """

    w_k: Each[Weights]
    u_k: Each[Weights]
    heard_k: Each[Inbox]
    near_k: Each[Inbox]


def relaysgd(
    task: Task,
    *,
    momentum: float = 0.0,
    epochs: int = 0,
    batch: int = 32,
    lr: float = 0.1,
    aggregation: Literal["plain", "weighted"] = "plain",
) -> Method:
    """RelaySGD, in D-PSGD's bytes on a tree: a topology `tree`, `line` or `star`, or a tree of your own that stays.

    A neighbour is sent its own message, so it asks for it by its number, in 8 bytes. Local epochs are ours.

    Args:
        task: Model and loss.
        momentum: Of a node's own gradients, kept from round to round; 0.9 in the paper's comparisons.
        epochs: 0 for a gradient of one batch, as in the paper; or passes over a node's data, without momentum.
        batch: Rows in a batch.
        lr: eta, the step size.
        aggregation: Of the final model, `plain` or `weighted` by rows.
    """
    if not 0 <= momentum < 1:
        raise SettingError(f"`momentum` must be in [0, 1); got {momentum}. Use 0.9, or 0 for none.")
    if momentum and epochs:
        raise SettingError(f"`momentum` must be 0 with local epochs; got {momentum}. Use epochs 0, or no momentum.")
    aggregate = node_mean(aggregation)
    draw = solvers.drawn(epochs, batch, task.augment)
    solve = solvers.sgd(task, lr=lr, pull=(lambda w, u: trees.scale(u, momentum)) if momentum else None)

    def init(fleet: Fleet, data_k: Each[Shard]) -> State:
        near = _tree(fleet).neighbours
        numbers = [torch.tensor(near[node], dtype=torch.int64, device=fleet.device) for node in fleet.here]
        zero = trees.zeros_like(task.w_0)

        def nothing(its: Tensor) -> Inbox:
            none = trees.map(lambda part: part.new_zeros(len(its), *part.shape), zero)
            return Inbox(Relay(none, torch.zeros_like(its)), torch.ones_like(its, dtype=torch.bool))

        return State(
            fleet.everywhere(task.w_0),
            fleet.everywhere(zero if momentum else {}),
            fleet.of_here([nothing(its) for its in numbers]),
            fleet.of_here([Inbox(its, torch.ones_like(its, dtype=torch.bool)) for its in numbers]),
        )

    def round(fleet: Fleet, state: State, data_k: Each[Shard], k: int) -> tuple[State, dict[str, Any]]:
        nodes = len(_tree(fleet).neighbours)
        batches_k = fleet.draw(draw, data_k, purpose="batches")
        z_k, u_k = fleet.map(train, state.w_k, state.u_k, data_k, batches_k).unzip(2)
        number_k = fleet.each([torch.tensor(node, device=fleet.device) for node in fleet.nodes])
        heard_k = fleet.ask(relayed, number_k, z_k, state.heard_k, state.near_k, message="relays").settle()
        w_k = fleet.map(lambda z, heard: averaged(z, heard, nodes), z_k, heard_k)
        return State(w_k, u_k, heard_k, state.near_k), {}

    def train(w: Weights, u: Weights, data: Shard, batches: Batches) -> tuple[Weights, Weights]:
        z = solve(w, data, batches, u)
        return z, trees.map(lambda w, z: (w - z) / solvers.travelled(task, batches) / lr, w, z) if momentum else u

    def relayed(asks: Tensor, z: Weights, heard: Inbox, near: Inbox) -> Relay:
        """What a node tells the neighbour of that number: its own model and all that others have told it."""
        others = _added(heard.values, heard.real & (near.values != asks))
        return Relay(trees.add(z, others.total), 1 + others.models)

    def averaged(z: Weights, heard: Inbox, nodes: int) -> Weights:
        total, models = _added(heard.values, heard.real)
        return trees.map(lambda z, part: (part + (nodes - models) * z) / nodes, z, total)  # type: ignore[no-any-return]

    return Method(
        "relaysgd",
        init,
        round,
        "aggregate",
        Traits(neighbours=True, needs_all="passes on all nodes' models along a tree that stays", unaveraged=True),
        aggregate,
        of_nodes,
        node_bytes=lambda rows, degree: (8 + 6 * degree) * trees.payload_bytes(task.w_0) + 4 * rows * _row_bytes(task),
        messages={"relays": Message(("between",))},
    )


def _added(messages: Relay, which: Tensor) -> Relay:
    """The sum of the messages in some slots."""

    def add(part: Tensor) -> Tensor:
        return torch.where(which.reshape(-1, *[1] * (part.dim() - 1)), part, 0).sum(0)

    return trees.map(add, messages)  # type: ignore[no-any-return]


def _tree(fleet: Fleet) -> Graph:
    """The round's graph; raises where it is no tree of all nodes."""
    graph = fleet.graph
    edges = None if graph is None else len(graph.edges)
    if graph is None or edges != len(fleet.nodes) - 1 or not graph.connected:
        raise SettingError(
            f"`topology` must be a tree for relaysgd, connected and with one edge less than nodes; got {edges} edges "
            f"for {len(fleet.nodes)} nodes. Choose 'line' or 'star'."
        )
    return graph


def _row_bytes(task: Task) -> int:
    return 0 if task.example is None else trees.payload_bytes(task.example)
