"""MOON: a client's features are drawn towards the server's model and away from its own last one.

Li, He, Song. Model-Contrastive Federated Learning. CVPR 2021, Algorithm 1. arXiv 2103.16257. The features are what goes
into the model's last linear layer, as in the libraries Fling and PFLlib; the authors' network has a projection in
between, and contrasts what comes out of that. cos is over a row's features.

    server:  w   <- w_0
    client:  v_k <- none
    round:   S   <- a random set of max(C K, 1) clients
             w_k <- w                                   for every client k in S
             w_k <- SGD(w_k; loss on data_k + mu contrast)        E local epochs of step eta, contrast the mean of
                    -log e^(cos(z, z_s)/T) / (e^(cos(z, z_s)/T) + e^(cos(z, z_v)/T))      over rows, 0 without v_k,
                    with the features z at w_k, z_s at w, z_v at v_k
             v_k <- w_k
             w   <- sum_k n_k / n  w_k
"""

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, softplus

from fedtangent.errors import SettingError
from fedtangent.federation import WEIGHTS_AT_SERVER, Central, Each, Fleet, Method, Traits, participants, rows
from fedtangent.shard import Shard
from fedtangent.task import Task, Weights
from fedtangent.training import dropout, solvers


class State(NamedTuple):
    """w: the server's weights. previous_k: v_k, the weights that a client trained last. met_k: which it has trained."""

    w: Central[Weights]
    previous_k: Each[Weights]
    met_k: Each[dict[str, Tensor]]


def moon(
    task: Task,
    *,
    mu: float = 1.0,
    temperature: float = 0.5,
    participation: float = 1.0,
    epochs: int = 1,
    batch: int = 10,
    lr: float = 0.1,
    momentum: float = 0.0,
    optimizer: Literal["sgd", "adam"] = "sgd",
) -> Method:
    """MOON; FedAvg where `mu` is 0, and in a client's first round. The local settings' defaults are FedAvg's.

    A step costs two more forward passes than FedAvg's. Dropout acts on z alone; z_s and z_v are taken in eval mode.
    Batch norm normalises all three by the batch.

    Args:
        task: Model and loss; the model must have layers before a last linear one.
        mu: Of the contrast; the paper tries 0.1 to 10.
        temperature: T, which divides the similarities.
        participation: C, the share of the clients in a round.
        epochs: E, passes over a client's data in a round; the paper takes 10.
        batch: Rows in a local batch; the paper takes 64.
        lr: eta; Adam needs less, such as 0.001.
        momentum: Of the local SGD; starts at zero every round.
        optimizer: Of the clients, `sgd` as in the paper, or `adam`, which starts anew every round.
    """
    if not mu >= 0:
        raise SettingError(f"`mu` must not be negative; got {mu}. Use 0 for FedAvg.")
    if not temperature > 0:
        raise SettingError(f"`temperature` must be positive; got {temperature}. Use 0.5.")
    _check(task.model)
    cohort = participants(participation)
    draw = solvers.shuffled(epochs, batch, task.augment)

    def objective(w_k: Weights, x: Any, y: Tensor, w: Weights, previous: Weights, met: dict[str, Tensor]) -> Tensor:
        f, z = represented(task, w_k, x)
        with dropout.off():
            z_s, z_v = (represented(task, at, x)[1] for at in (w, previous))
        known = torch.stack(list(met.values())).all()  # in a partial update, of its parameters
        return task.loss.per_sample(f, y) + mu * torch.where(known, contrast(z, z_s, z_v, temperature), 0)

    train = solvers.local(task, optimizer, lr=lr, momentum=momentum, objective=objective)

    def marked(fleet: Fleet, met: bool) -> dict[str, Tensor]:
        return {name: torch.tensor(met, device=fleet.device) for name in task.w_0}

    def init(fleet: Fleet, data_k: Each[Shard]) -> State:
        return State(fleet.server(task.w_0), fleet.everywhere(task.w_0), fleet.everywhere(marked(fleet, False)))

    def round(fleet: Fleet, state: State, data_k: Each[Shard], k: int) -> tuple[State, dict[str, Any]]:
        clients = cohort(fleet)
        received_k = clients.broadcast(state.w, "weights")
        batches_k = clients.draw(draw, data_k, purpose="batches")
        w_k = clients.map(train, received_k, data_k, batches_k, received_k, state.previous_k, state.met_k)
        w = clients.mean(w_k, clients.map(rows, data_k), "weights", since_k=received_k)
        met_k = clients.everywhere(marked(fleet, True))
        return State(w, fleet.merge(w_k, state.previous_k), fleet.merge(met_k, state.met_k)), {}

    return Method("moon", init, round, "aggregate", Traits(averages=True), clients=cohort, messages=WEIGHTS_AT_SERVER)


def contrast(z: Tensor, z_s: Tensor, z_v: Tensor, temperature: float) -> Tensor:
    """-log e^(cos(z, z_s)/T) / (e^(cos(z, z_s)/T) + e^(cos(z, z_v)/T)) of every row."""
    return softplus((cosine_similarity(z, z_v) - cosine_similarity(z, z_s)) / temperature)


def represented(task: Task, w: Weights, x: Any) -> tuple[Tensor, Tensor]:
    """The outputs f(x; w), (rows, outputs), and what went into the last linear layer that was called, (rows, features).

    Raises:
        ValueError: No linear layer was called, or not with one row for every row of x.
    """
    inputs: list[Tensor] = []

    def note(_: nn.Module, given: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        inputs.append(given[0] if given else named["input"])

    layers = [part for part in task.model.modules() if isinstance(part, nn.Linear)]
    hooks = [part.register_forward_pre_hook(note, with_kwargs=True) for part in layers]
    try:
        f = task.predict(w, x)
    finally:
        for hook in hooks:
            hook.remove()
    if not inputs or inputs[-1].dim() < 2 or len(inputs[-1]) != len(f):
        got = tuple(inputs[-1].shape) if inputs else "none"
        raise SettingError(
            f"`model` must call a linear layer last, with the features of {len(f)} rows here; got {got}. "
            "End the model in a torch.nn.Linear."
        )
    return f, inputs[-1].flatten(1)


def _check(model: nn.Module) -> None:
    """Raises one clear sentence where a model cannot have features before a last linear layer."""
    layers = [part for part in model.modules() if next(part.parameters(recurse=False), None) is not None]
    if len(layers) < 2 or not any(isinstance(part, nn.Linear) for part in layers):
        names = ", ".join(type(part).__name__ for part in layers)
        raise SettingError(
            f"`model` must have layers before a last linear one, whose inputs are contrasted; got {names}. "
            "Use a deeper model, such as mlp."
        )
