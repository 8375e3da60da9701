"""Per-layer factors of the Jacobian: inputs and output sensitivities, which give the kernel without the Jacobian.

For a Linear layer with inputs a (N x I) and pre-activations z (N x O), the Jacobian of output c at sample n is the
outer product of d_nc = df_nc/dz_n and (a_n, 1): 1,884 floats a sample instead of 795,100 for 784-100-10.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

Weights = dict[str, Tensor]

# Functions of one number: the gate of a layer below the last is then their derivative.
_ELEMENTWISE = (
    nn.CELU, nn.ELU, nn.GELU, nn.Hardshrink, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, nn.Identity, nn.LeakyReLU,
    nn.LogSigmoid, nn.Mish, nn.ReLU, nn.ReLU6, nn.SELU, nn.SiLU, nn.Sigmoid, nn.Softplus, nn.Softshrink, nn.Softsign,
    nn.Tanh, nn.Tanhshrink, nn.Threshold,
)  # fmt: skip


class Dense(NamedTuple):
    """A layer's part of the Jacobian. a: its inputs (..., N, I). d: sensitivities df_nc/dz_no (..., N, C, O)."""

    a: Tensor
    d: Tensor

    def backward(self, alpha: Tensor, head: Tensor) -> Tensor:
        """sum_c alpha_nc d_nco (..., N, O): the cotangent alpha (..., N, C) at the pre-activations."""
        return torch.einsum("...nc,...nco->...no", alpha, self.d)

    def forward(self, u: Tensor, head: Tensor) -> Tensor:
        """sum_o d_nco u_no (..., N, C): what a change u (..., N, O) of the pre-activations does to the outputs."""
        return torch.einsum("...no,...nco->...nc", u, self.d)

    def likeness(self, other: "Dense", head: Tensor) -> Tensor:
        """1/C sum_c d_nc . d_mc, (N, M)."""
        return self.d.flatten(1) @ other.d.flatten(1).T / self.d.shape[1]

    def sensitivities(self, head: Tensor) -> Tensor:
        """d (N, C, O)."""
        return self.d


class Gated(NamedTuple):
    """A layer that only an elementwise function and the last layer W (C, O) follow: d_nco = W_co gate_no."""

    a: Tensor
    gate: Tensor

    def backward(self, alpha: Tensor, head: Tensor) -> Tensor:
        """The cotangent alpha (..., N, C) at the pre-activations, (..., N, O)."""
        return (alpha @ head) * self.gate

    def forward(self, u: Tensor, head: Tensor) -> Tensor:
        """What a change u (..., N, O) of the pre-activations does to the outputs, (..., N, C)."""
        return (u * self.gate) @ head.mT

    def likeness(self, other: "Gated", head: Tensor) -> Tensor:
        """1/C sum_c d_nc . d_mc, (N, M)."""
        return (self.gate * (head**2).mean(0)) @ other.gate.T

    def sensitivities(self, head: Tensor) -> Tensor:
        """d (N, C, O)."""
        return self.gate[:, None] * head


class Last(NamedTuple):
    """The layer whose pre-activations are the outputs: d is the identity, and nothing of it is stored."""

    a: Tensor

    def backward(self, alpha: Tensor, head: Tensor) -> Tensor:
        """The cotangent alpha (..., N, C) at the pre-activations, (..., N, O)."""
        return alpha

    def forward(self, u: Tensor, head: Tensor) -> Tensor:
        """What a change u (..., N, O) of the pre-activations does to the outputs, (..., N, C)."""
        return u

    def likeness(self, other: "Last", head: Tensor) -> Tensor:
        """1/C sum_c d_nc . d_mc, (N, M)."""
        return self.a.new_ones(())

    def sensitivities(self, head: Tensor) -> Tensor:
        """d (N, C, O)."""
        return torch.eye(len(head), dtype=head.dtype, device=head.device).expand(len(self.a), -1, -1)


Factor = Dense | Gated | Last
Factors = dict[str, Any]  # a Factor by the prefix of its layer's parameters, such as `3.`


def factors(model: nn.Module, w: Weights, x: Tensor) -> tuple[Tensor, Factors]:
    """f(x; w) (N, C), and the factors of its Jacobian by every Linear layer, in the order of the forward pass.

    One forward pass, and a backward pass an output for every layer below the last two.

    Raises:
        ValueError: A trainable parameter outside Linear layers, a layer used twice or on more than two axes, or a
            module whose outputs depend on other samples or on chance.
    """
    check(model, w)
    layers = {name: w[f"{name}weight"] for name in _linear(model) if f"{name}weight" in w}
    probes = {name: weight.new_zeros(len(x), len(weight)) for name, weight in layers.items()}

    def forward(probes: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        return _traced(model, w, x, probes)

    f, vjp, inputs = torch.func.vjp(forward, probes, has_aux=True)  # type: ignore[misc]
    if f.dim() != 2:
        raise ValueError(f"`model` must return (rows, outputs); got {f.dim()} axes. Flatten its outputs.")
    found: Factors = {}
    lower = list(inputs)
    last = lower.pop()
    if _ends_in(model, last):
        found[last] = Last(inputs[last])
        if lower and _elementwise_between(model, lower[-1], last):
            gated = lower.pop()
            found[gated] = Gated(inputs[gated], _gate(model, w, x, probes, gated, last))
    dense = [name for name in inputs if name not in found]
    if dense:
        identity = torch.eye(f.shape[1], dtype=f.dtype, device=f.device)
        d = torch.func.vmap(lambda row: vjp(row.expand_as(f))[0])(identity)
        found |= {name: Dense(inputs[name], d[name].movedim(0, 1)) for name in dense}
    return f, {name: found[name] for name in inputs}


def head(factors: Factors, w: Weights) -> Tensor:
    """The weights (C, O) of the `Last` layer, which gates need; empty where there is none."""
    return next((w[f"{name}weight"] for name, factor in factors.items() if isinstance(factor, Last)), torch.zeros(0))


def check(model: nn.Module, w: Weights) -> None:
    """Raises one clear sentence where the factors would not be the model's Jacobian."""
    for name, part in model.named_modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and (part.training or not part.track_running_stats):
            raise ValueError(
                f"`model` must not mix the samples of a batch; got batch norm in train mode at {name!r}. "
                "Call model.eval(), or use GroupNorm."
            )
        if isinstance(part, nn.modules.dropout._DropoutNd) and part.training and part.p > 0:
            raise ValueError(
                f"`model` must be deterministic; got dropout in train mode at {name!r}. Call model.eval()."
            )
    covered = {f"{name}{part}" for name in _linear(model) if f"{name}weight" in w for part in ("weight", "bias")}
    strange = sorted(set(w) - covered)
    if strange:
        raise ValueError(
            f"`model` must hold its trainable parameters in Linear layers; got {strange[0]!r}. "
            "Freeze it with requires_grad_(False), or use fully connected layers."
        )


def _linear(model: nn.Module) -> dict[str, nn.Linear]:
    """The Linear layers, by the prefix of their parameters' names."""
    layers = {name: part for name, part in model.named_modules() if isinstance(part, nn.Linear)}
    return {f"{name}." if name else "": part for name, part in layers.items()}


def _traced(model: nn.Module, w: Weights, x: Tensor, probes: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """f with `probes` added to the pre-activations, and the layers' inputs in the order of use."""
    inputs: dict[str, Tensor] = {}

    def hook(name: str) -> Any:
        def add_probe(_: nn.Module, arguments: tuple[Tensor], output: Tensor) -> Tensor:
            if name in inputs:
                raise ValueError(f"`model` must use every layer once; got {name!r} twice. Untie its weights.")
            if output.dim() != 2:
                raise ValueError(
                    f"`model` must apply {name!r} to (rows, features); got {output.dim()} axes. Flatten its input."
                )
            inputs[name] = arguments[0]
            return output + probes[name]

        return add_probe

    handles = [part.register_forward_hook(hook(name)) for name, part in _linear(model).items() if name in probes]
    try:
        f = torch.func.functional_call(model, w, (x,))
    finally:
        for handle in handles:
            handle.remove()
    unused = sorted(set(probes) - set(inputs))
    if unused:
        raise ValueError(f"`model` must use every layer; got {unused[0]!r} unused. Freeze it or remove it.")
    return f, inputs


def _gate(model: nn.Module, w: Weights, x: Tensor, probes: dict[str, Tensor], gated: str, last: str) -> Tensor:
    """d a_last / d z_gated, one number a unit: what lies between the two layers is elementwise."""

    def last_input(probe: Tensor) -> Tensor:
        return _traced(model, w, x, probes | {gated: probe})[1][last]

    a, vjp = torch.func.vjp(last_input, probes[gated])  # type: ignore[misc]
    return vjp(torch.ones_like(a))[0]  # type: ignore[no-any-return]


def _chain(model: nn.Module, prefix: str = "") -> list[tuple[str, nn.Module]]:
    """The modules of nested Sequentials in the order of use; any other module is one link."""
    if type(model) is not nn.Sequential:
        return [(prefix, model)]
    parts = [_chain(part, f"{prefix}{name}.") for name, part in model.named_children()]
    return [link for part in parts for link in part]


def _ends_in(model: nn.Module, last: str) -> bool:
    """Whether f is the pre-activation of `last`."""
    names = [name for name, part in _chain(model) if not isinstance(part, nn.Identity)]
    return names[-1] == last


def _elementwise_between(model: nn.Module, lower: str, last: str) -> bool:
    """Whether only elementwise functions lie between two layers."""
    links = _chain(model)
    names = [name for name, _ in links]
    if lower not in names:
        return False
    return all(isinstance(part, _ELEMENTWISE) for _, part in links[names.index(lower) + 1 : names.index(last)])
