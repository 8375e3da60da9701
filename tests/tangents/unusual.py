"""Models whose derivatives torch takes in few ways, or otherwise in forward mode; and J row by row, by autograd."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

INPUTS, HIDDEN, OUTPUTS = 4, 6, 3


class Between(nn.Module):
    """Two linear layers, and something between them."""

    def __init__(self, middle: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.lower, self.upper, self.middle = nn.Linear(INPUTS, HIDDEN), nn.Linear(HIDDEN, OUTPUTS), middle

    def forward(self, x: Tensor) -> Tensor:
        return self.upper(self.middle(self, x))


class OldReversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> Tensor:
        return -2 * d


class Reversal(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None: ...

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> Tensor:
        return -2 * d

    @staticmethod
    def jvp(ctx: Any, d: Tensor) -> Tensor:
        return d.clone()


class OnlyOnce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d: Tensor) -> Tensor:
        return d * ctx.saved_tensors[0].cos()


class Clipped(Reversal):
    @staticmethod
    def backward(ctx: Any, d: Tensor) -> Tensor:
        return d.clamp(-0.01, 0.01)


def fixed_point(net: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        z = net.lower(x).sin()
    return (net.lower(x) + 0.5 * z).tanh()


def straight_through(net: Any, x: Tensor) -> Tensor:
    z = net.lower(x).tanh()
    return z + ((3 * z).round() / 3 - z).detach()


def hooked(net: Any, x: Tensor) -> Tensor:
    z = net.lower(x).tanh()
    if z.requires_grad:
        z.register_hook(lambda d: -3 * d)
    return z


def checkpointed(net: Any, x: Tensor) -> Tensor:
    return checkpoint(lambda x: net.lower(x).tanh(), x, use_reentrant=False)


def stored_elsewhere(net: Any, x: Tensor) -> Tensor:
    with torch.autograd.graph.save_on_cpu():
        return net.lower(x).tanh()


def inner_derivative(net: Any, x: Tensor) -> Tensor:
    energy = torch.func.grad(lambda x: net.lower(x).tanh().sum())
    return net.lower(torch.func.vmap(energy)(x)).tanh()


def force(net: Any, x: Tensor) -> Tensor:
    """As in molecular dynamics, where nobody enables gradients inside."""
    x.requires_grad_()
    energy = net.lower(x).tanh().sum()
    return net.lower(torch.autograd.grad(energy, x, create_graph=True)[0]).tanh()


MODELS: dict[str, tuple[Callable[[Any, Tensor], Tensor], str, bool]] = {
    # what lies between, how J v is to be taken, whether torch.func has J^T alpha
    "no_grad": (fixed_point, "backward twice", True),
    "straight through": (straight_through, "forward", True),
    "hook": (hooked, "backward twice", True),
    "reversal": (lambda net, x: Reversal.apply(net.lower(x)).tanh(), "backward twice", True),
    "reversal of the old kind": (lambda net, x: OldReversal.apply(net.lower(x)).tanh(), "autograd", False),
    "once differentiable": (lambda net, x: OnlyOnce.apply(net.lower(x)), "rows", False),
    "checkpoint": (checkpointed, "autograd", False),
    "saved elsewhere": (stored_elsewhere, "autograd", False),
    "torch.func.grad": (inner_derivative, "forward", True),
    "torch.autograd.grad": (force, "autograd", False),
}


def model(name: str) -> nn.Module:
    torch.manual_seed(len(name))
    return Between(MODELS[name][0]).double()


def samples(count: int = 5) -> Tensor:
    return torch.randn(count, INPUTS, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def by_rows(net: nn.Module, *x: Tensor, pick: Callable[[Any], Tensor] = lambda f: f) -> Tensor:
    """J (n, C, P), by a backward pass of the model itself for every output of every sample."""
    parameters = [p for p in net.parameters() if p.requires_grad]
    found = []
    for n in range(len(x[0])):
        f = pick(net(*(part[n : n + 1].clone() for part in x))).reshape(-1)
        for one in f:
            grads = torch.autograd.grad(one, parameters, retain_graph=True, materialize_grads=True)
            found.append(torch.cat([part.flatten() for part in grads]))
    return torch.stack(found).reshape(len(x[0]), -1, found[0].numel())


def flat(w: dict[str, Tensor]) -> Tensor:
    return torch.cat([part.flatten() for part in w.values()])


def like(w: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(part.shape, generator=generator, dtype=part.dtype) for name, part in w.items()}
