"""AFL: the last layer by ridge regression in closed form, from sums over all clients' rows, in one round.

He, Tong, Fang, Sun, Zeng, Li, Chen, Zhuang. AFL: A Single-Round Analytic Approach for Federated Learning with
Pre-trained Models. CVPR 2025. arXiv 2405.16240. There a client sends C_k + gamma I and its own solution
(C_k + gamma I)^-1 Q_k^T, and the server merges pair by pair and takes the gammas off again: the same numbers as here,
where Q_k travels as it is, so that a sum is all that the server needs. Who holds which row makes no difference.

    server:  w   <- w_0
    round:   z   <- what goes into the last linear layer at w, with a 1 for its bias, for every row
             C_k <- sum of z z^T,  Q_k <- sum of y z^T over k's rows, y one-hot or targets
             C, Q <- sum_k C_k, sum_k Q_k
             w   <- w with Q (C + ridge I)^-1 for the last layer
             later rounds do nothing: w is the optimum
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fedtangent.errors import SettingError
from fedtangent.federation import Central, Each, Fleet, Message, Method, Traits, disclosure, rows
from fedtangent.shard import Shard
from fedtangent.tangent_steps import slices, triangles
from fedtangent.tangent_steps.last_layer import last_layer
from fedtangent.task import Task, Weights
from fedtangent.training import losses

_AT_ONCE = 256  # rows of a pass


class State(NamedTuple):
    """w: the server's weights."""

    w: Central[Weights]


class Sums(NamedTuple):
    """Over rows.

    Attributes:
        c: Of z z^T, the upper triangle (features (features + 1) / 2,).
        q: Of y z^T, (outputs, features).
        other: How many outputs of the model were not the layer's own, ().
    """

    c: Tensor
    q: Tensor
    other: Tensor


def afl(task: Task, *, ridge: float = 1.0, guard: bool = True) -> Method:
    """AFL. A pass over a client's rows, and features^2 numbers up, once; features^3 multiply-adds at the server.

    The layer is fitted under the squared loss, whatever the task's; its first weights have no influence.

    Args:
        task: Model and loss; the model's outputs must be those of its last linear layer. What comes before it is kept
            as it is, so it should be pretrained.
        ridge: What is added to the diagonal of C; the paper's clients take 1 each, and its server takes it off again.
            0 needs as many independent rows as features.
        guard: Whether sums are refused that would show a client or a row: of fewer than three clients, one of which
            may not hold more than half of the rows, or of fewer rows than twice the features. Without it the exposure
            is `kernel`.
    """
    if not ridge >= 0:
        raise SettingError(f"`ridge` must not be negative; got {ridge}. Use 1.")
    name, layer = last_layer(task)
    features = layer.in_features + (layer.bias is not None)

    def init(fleet: Fleet, data_k: Each[Shard]) -> State:
        if guard:
            fleet.at_server(check, fleet.gather(fleet.map(rows, data_k)))
        return State(fleet.server(task.w_0))

    def round(fleet: Fleet, state: State, data_k: Each[Shard], k: int) -> tuple[State, dict[str, Any]]:
        if k > 1:
            return state, {}
        total, refused = fleet.sum(fleet.map(sums, fleet.broadcast(state.w, "weights"), data_k), "sums")
        return State(fleet.at_server(solved, state.w, total)), {"refused": refused}

    def check(counts: list[Tensor]) -> None:
        disclosure.check(counts, disclosure.least(features), "Add nodes or rows, or take guard off.")

    def sums(w: Weights, data: Shard) -> Sums:
        found: Sums = slices.summed(lambda part: of_rows(w, part), data, slices.MEMORY // _AT_ONCE)
        return found

    def of_rows(w: Weights, data: Shard) -> Sums:
        f, z, out = _called(task, layer, w, data.x)
        if layer.bias is not None:
            z = torch.cat([z, torch.ones_like(z[:, :1])], 1)
        z = torch.where(data.real[:, None], z, 0)
        y = torch.where(data.real[:, None], losses.targets(f, data.y), 0).to(z.dtype)
        other = ((f != out) & ~(f.isnan() & out.isnan())).any(1) & data.real
        return Sums(triangles.pack(z.mT @ z), y.mT @ z, other.sum())

    def solved(w: Weights, total: Sums) -> Weights:
        if int(total.other):
            raise SettingError(
                f"`model` must give the outputs of its last linear layer, {name!r}; got others for {int(total.other)} "
                "rows. End the model in a torch.nn.Linear."
            )
        values, vectors = torch.linalg.eigh(triangles.unpack(total.c).double())
        values = values.clamp(min=0) + ridge  # a lossy channel leaves some below 0
        if bool(values[0] <= features * torch.finfo(values.dtype).eps * values[-1]):
            raise SettingError(
                f"`ridge` must be positive where the rows do not span all {features} features; got {ridge}. Use 1."
            )
        fitted = (total.q.double() @ vectors / values @ vectors.mT).to(total.q.dtype)
        found = {f"{name}weight": fitted[:, : layer.in_features]}
        return w | found | ({f"{name}bias": fitted[:, -1]} if layer.bias is not None else {})

    return Method(
        "afl",
        init,
        round,
        "aggregate" if guard else "kernel",
        Traits(needs_all="asks every node once, in round 1"),
        messages={"weights": Message(("down",), lasting=True), "sums": Message(("up",))},
    )


def _called(task: Task, layer: nn.Linear, w: Weights, x: Any) -> tuple[Tensor, Tensor, Tensor]:
    """The model's outputs (rows, outputs), what went into the layer (rows, features), and what came out of it."""
    calls: list[tuple[Tensor, Tensor]] = []
    hook = layer.register_forward_hook(
        lambda _, given, named, out: calls.append(((*given, *named.values())[0], out)), with_kwargs=True
    )
    try:
        f = task.predict(w, x)
    finally:
        hook.remove()
    z, out = calls[-1] if calls else (f.new_zeros(0), f.new_zeros(0))
    if z.dim() != 2 or out.shape != f.shape:
        got = f"{tuple(out.shape)} for {tuple(f.shape)}" if calls else "no call of it"
        raise SettingError(
            f"`model` must give the outputs of its last linear layer; got {got}. End the model in a torch.nn.Linear."
        )
    return f, z, out
