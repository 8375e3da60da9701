"""The step of FedKFAC as its pseudo-code says: explicit Jacobians, Kronecker products, every candidate's true loss."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedtangent.shard import Shard
from tests.methods import literal_tangent
from tests.methods.literal_tangent import Weights, shifted

LAYERS = ("0", "2")


class Step(NamedTuple):
    """What a literal step does; the names are those of the methods' options."""

    dampings: tuple[float, ...]
    ridges: tuple[float, ...]
    scales: tuple[float, ...]
    momentum: bool = True
    wire: str = "full"
    loss: str = "cross_entropy"
    weight_decay: float = 0.0


def flat(w: Weights) -> Tensor:
    return torch.cat([part.flatten() for part in w.values()])


def hessian(f: Tensor, loss: str) -> Tensor:
    """d^2 loss / d f^2 of one row."""
    if loss == "squared":
        return torch.eye(len(f)).double() / len(f)
    p = f.softmax(0)
    return p.diag() - torch.outer(p, p)


def row_gradient(w: Weights, x: Tensor, y: Tensor, loss: str) -> Tensor:
    """Of one row's loss, (P,)."""
    model = literal_tangent.network(w)
    value = literal_tangent.value(model(x[None]), y[None], loss)
    return torch.cat([part.flatten() for part in torch.autograd.grad(value, list(model.parameters()))])


def layer_inputs(w: Weights, x: Tensor) -> list[Tensor]:
    """(x, 1) and (h, 1) of one row."""
    h = torch.relu(w["0.weight"] @ x + w["0.bias"])
    return [torch.cat([u, torch.ones(1).double()]) for u in (x, h)]


def first_inputs(x: Tensor) -> Tensor:
    """A of the first layer, the sum over rows."""
    rows = [torch.cat([row, torch.ones(1).double()]) for row in x]
    return sum(torch.outer(u, u) for u in rows)  # type: ignore[return-value]


def row_weights(everywhere: Tensor, here: Tensor, most: float, outputs: int) -> Tensor:
    """What every row of `here` weighs, by its label: the ratio of the shares within [1 / most, most], 1 on average."""
    share, own = ([float((y == c).double().mean()) for c in range(outputs)] for y in (everywhere, here))
    ratio = [min(max(a / b, 1 / most), most) if b else None for a, b in zip(share, own, strict=True)]
    rows = torch.tensor([ratio[int(c)] for c in here], dtype=torch.float64)
    return rows / rows.mean()


def factors(w: Weights, x: Tensor, loss: str, weight: Tensor) -> list[list[Tensor]]:
    """A and B of both layers, means over rows."""
    a, b = [torch.zeros(())] * 2, [torch.zeros(())] * 2
    for row, rho in zip(x, weight, strict=True):
        inputs = layer_inputs(w, row)
        z = w["0.weight"] @ row + w["0.bias"]
        f = w["2.weight"] @ torch.relu(z) + w["2.bias"]
        reacts = [w["2.weight"] * (z > 0), torch.eye(len(f)).double()]
        for layer in (0, 1):
            a[layer] = a[layer] + torch.outer(inputs[layer], inputs[layer]) / len(x)
            b[layer] = b[layer] + rho * reacts[layer].T @ hessian(f, loss) @ reacts[layer] / len(x)
    return [a, b]


def direction(w: Weights, g: Tensor, a: list[Tensor], b: list[Tensor], damping: float) -> Tensor:
    """((B / b + r) (x) (A / a + r))^-1 g / (a b) layer by layer, r the damping's root; flat."""
    g_of, found = shifted({name: torch.zeros_like(part) for name, part in w.items()}, g), {}
    for layer, left, right in zip(LAYERS, b, a, strict=True):
        means = [float(side.trace()) / len(side) for side in (left, right)]
        pairs = zip((left, right), means, strict=True)
        sides = [side.numpy() / mean + np.sqrt(damping) * np.eye(len(side)) for side, mean in pairs]
        whole = torch.cat([g_of[f"{layer}.weight"], g_of[f"{layer}.bias"][:, None]], 1)
        solved = np.linalg.solve(np.kron(*sides) * means[0] * means[1], whole.flatten().numpy())
        whole = torch.from_numpy(solved).reshape(whole.shape)
        found |= {f"{layer}.weight": whole[:, :-1], f"{layer}.bias": whole[:, -1]}
    return flat({name: found[name] for name in w})


def local(
    w: Weights,
    data: Shard,
    rng: np.random.Generator,
    step: Step,
    epochs: int,
    batch: int,
    lr: float,
    local_momentum: float,
) -> Weights:
    """Torch's own SGD on a client's rows, logits plus the log of a class's share; a thousandth of a row is in each."""
    model = literal_tangent.network(w)
    sgd = torch.optim.SGD(model.parameters(), lr, momentum=local_momentum, weight_decay=step.weight_decay)
    outputs = len(w["2.bias"])
    share = [((data.y == c).double().sum() + 0.001) / len(data.y) for c in range(outputs)]
    shift = torch.stack(share).log() if step.loss == "cross_entropy" else torch.zeros(outputs)
    for _ in range(epochs):
        for rows in torch.from_numpy(rng.permutation(len(data.y))).split(batch):
            sgd.zero_grad()
            literal_tangent.value(model(data.x[rows]) + shift, data.y[rows], step.loss).backward()
            sgd.step()
    return {name: part.detach().clone() for name, part in model.named_parameters()}


def means(w: Weights, x: Tensor, y: Tensor, step: Step, weight: Tensor | None = None) -> list[Tensor]:
    """Over rows, which may weigh more or less: the gradient, A of the second layer, B of both."""
    weight = torch.ones(len(x)).double() if weight is None else weight
    g = torch.stack([row_gradient(w, *row, step.loss) for row in zip(x, y, strict=True)])
    g = (weight[:, None] * g).mean(0)
    a, b = factors(w, x, step.loss, weight)
    return [g + step.weight_decay * flat(w), a[1], *b]


def candidates(
    w: Weights,
    v: Weights,
    first: Tensor,
    x: Tensor,
    y: Tensor,
    step: Step,
    weight: Tensor | None = None,
    u: Weights | None = None,
    total: list[Tensor] | None = None,
) -> list[Weights]:
    """w + D c for every ridge and scale; `first` is A of the first layer, a mean; rows may weigh more or less.

    u is one more direction; `total` is in place of the rows' own means.
    """
    weight = torch.ones(len(x)).double() if weight is None else weight
    g, second, *b = means(w, x, y, step, weight) if total is None else total
    d = torch.stack([direction(w, g, [first, second], b, damping) for damping in step.dampings])
    if step.momentum:
        d = torch.cat([d, flat(v)[None]])
    if u is not None:
        d = torch.cat([d, flat(u)[None]])
    if step.wire == "bfloat16":
        d = d.to(torch.bfloat16).double()
    q, j, f = step.weight_decay * d @ d.T, literal_tangent.jacobian(w, x), literal_tangent.outputs(w, x)
    for n in range(len(x)):
        q += weight[n] * d @ j[n].T @ hessian(f[n], step.loss) @ j[n] @ d.T / len(x)
    still = [i for i in range(len(d)) if not d[i].any()]
    found = []
    for ridge in step.ridges:
        damped = q + ridge * torch.diag(q.diag())
        for i in still:
            damped[i, i] = 1  # and the slope along it is 0
        c = -torch.linalg.solve(damped, d @ g)
        found += [shifted(w, scale * c @ d) for scale in step.scales]
    return found


def best(tries: list[Weights], x: Tensor, y: Tensor, loss: str, weight: Tensor | None = None) -> int:
    """The number of the candidate of the lowest loss, from 1."""
    weight = torch.ones(len(x)).double() if weight is None else weight
    value = []
    for w in tries:
        rows = zip(weight, literal_tangent.outputs(w, x), y, strict=True)
        value.append(sum(rho * literal_tangent.value(f[None], label[None], loss) for rho, f, label in rows))
    return 1 + int(torch.stack(value).argmin())


def subtract(a: Weights, b: Weights) -> Weights:
    return {name: a[name] - b[name] for name in a}


def zeros(w: Weights) -> Weights:
    return {name: torch.zeros_like(part) for name, part in w.items()}
