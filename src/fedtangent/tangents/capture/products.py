"""J v and J^T alpha by torch.autograd, for models that the transforms of torch.func cannot differentiate.

Checkpointing, hooks and functions of autograd of the old kind make such models. Inside a transform the products are
taken outside of it, on plain tensors: vmap maps them one by one, and they can be differentiated by v and by alpha, in
which they are linear.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import optree
import torch
from torch import Tensor, nn

from fedtangent.errors import SettingError
from fedtangent.outside_vmap import hooks_allowed
from fedtangent.tangents.capture.functional import Weights, call, holding, plain
from fedtangent.tangents.capture.samples import Samples

Leaves = tuple[Tensor, ...]


def push(model: nn.Module, w: Weights, x: Samples, v: Weights, by_rows: bool = False) -> tuple[Tensor, Tensor]:
    """f(x; w) and J v, (n, C): as the derivative of J^T alpha by alpha, or `by_rows`, of n C backward passes."""
    at, structure = _flatten(w, x)
    f, change = _Push.apply(_Model(model, tuple(w), structure, by_rows), *at, *(v[name] for name in w))
    return f, change


def pull(model: nn.Module, w: Weights, x: Samples, alpha: Tensor, by_rows: bool = False) -> Weights:
    """J^T alpha, a tree like w."""
    at, structure = _flatten(w, x)
    found = _Pull.apply(_Model(model, tuple(w), structure, by_rows), *at, alpha)
    return dict(zip(w, found, strict=True))


def _flatten(w: Weights, x: Samples) -> tuple[list[Tensor], Any]:
    tree: Any = (w, x)
    return optree.tree_flatten(tree)


class _Model(NamedTuple):
    """f as a function of the leaves `at` of (w, x). names: Of the weights, in the order of v and of J^T alpha."""

    model: nn.Module
    names: tuple[str, ...]
    structure: Any
    by_rows: bool

    def split(self, leaves: Leaves) -> tuple[Leaves, Leaves]:
        """The leaves of (w, x), and those that follow them."""
        count = self.structure.num_leaves
        return leaves[:count], leaves[count:]

    def push(self, at: Leaves, v: Leaves) -> tuple[Tensor, Tensor]:
        w, x = self._tree(at)
        parts = [x[n : n + 1] for n in range(len(x))] if self.by_rows else [x]
        found = [(self._by_rows if self.by_rows else self._twice)(w, part, v) for part in parts]
        f, change = zip(*found, strict=True)
        return torch.cat(f).detach(), torch.cat(change).detach()

    def pull(self, at: Leaves, alpha: Tensor) -> Leaves:
        with self._graph(*self._tree(at)) as (w, f):
            return _gradients(f, w, alpha)

    def zeros(self, at: Leaves) -> Leaves:
        """The zero of v."""
        w = self._tree(at)[0]
        return tuple(torch.zeros_like(w[name]) for name in self.names)

    def _tree(self, at: Leaves) -> tuple[Weights, Samples]:
        found: Any = optree.tree_unflatten(self.structure, at)
        return found  # type: ignore[no-any-return]

    @contextmanager
    def _graph(self, w: Weights, x: Samples) -> Iterator[tuple[list[Tensor], Tensor]]:
        """The weights as leaves of a graph, and f at its end."""
        own = {name: w[name].detach().requires_grad_() for name in self.names}
        with torch.enable_grad(), plain(), hooks_allowed(), holding(self.model, own):
            yield list(own.values()), call(self.model, own, x)

    def _twice(self, w: Weights, x: Samples, v: Leaves) -> tuple[Tensor, Tensor]:
        with self._graph(w, x) as (own, f):
            alpha = torch.zeros_like(f, requires_grad=True)
            pulled = [(one, its) for one, its in zip(_gradients(f, own, alpha), v, strict=True) if one.requires_grad]
            if not pulled:
                return f, torch.zeros_like(f)
            one, its = zip(*pulled, strict=True)
            return f, torch.autograd.grad(one, alpha, its, materialize_grads=True)[0]

    def _by_rows(self, w: Weights, x: Samples, v: Leaves) -> tuple[Tensor, Tensor]:
        with self._graph(w, x) as (own, f):
            rows = [
                _gradients(f, own, row, again=True)
                for row in torch.eye(f.shape[1], dtype=f.dtype, device=f.device)[:, None]
            ]
            change = [torch.stack([(one * its).sum() for one, its in zip(row, v, strict=True)]).sum() for row in rows]
            return f, torch.stack(change)[None]


def _gradients(f: Tensor, w: list[Tensor], alpha: Tensor, again: bool = False) -> Leaves:
    """J^T alpha, itself differentiable where alpha is; zero where f does not depend on a weight."""
    if not f.requires_grad:
        return tuple(torch.zeros_like(part) for part in w)
    twice = alpha.requires_grad
    return torch.autograd.grad(f, w, alpha, retain_graph=again or twice, create_graph=twice, materialize_grads=True)


class _Linear(torch.autograd.Function):
    """A function of (model, *at, *rest) that is linear in the rest."""

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.model, at = inputs[0], inputs[0].split(inputs[1:])[0]
        ctx.save_for_backward(*at)
        ctx.save_for_forward(*at)
        ctx.set_materialize_grads(False)

    @classmethod
    def vmap(cls, info: Any, in_dims: Any, model: _Model, *leaves: Tensor) -> Any:
        dims = in_dims[1:]
        found = []
        for i in range(info.batch_size):
            its = (leaf if dim is None else leaf.select(dim, i) for leaf, dim in zip(leaves, dims, strict=True))
            found.append(cls.apply(model, *its))
        stacked = tuple(torch.stack(parts) for parts in zip(*found, strict=True))
        return stacked, tuple(0 for _ in stacked)


class _Push(_Linear):
    """(at, v) -> f, J v."""

    @staticmethod
    def forward(model: _Model, *leaves: Tensor) -> tuple[Tensor, Tensor]:
        return model.push(*model.split(leaves))

    @staticmethod
    def backward(ctx: Any, _f: Tensor | None, alpha: Tensor | None) -> Any:
        at = _constant(ctx, ctx.needs_input_grad[1:])
        rest = [None for _ in ctx.model.names] if alpha is None else _Pull.apply(ctx.model, *at, alpha)
        return None, *(None for _ in at), *rest

    @staticmethod
    def jvp(ctx: Any, _model: Any, *tangents: Tensor | None) -> Any:
        at = _constant(ctx, tangents)
        zeros = ctx.model.zeros(at)
        v = (zero if part is None else part for zero, part in zip(zeros, tangents[len(at) :], strict=True))
        f, change = _Push.apply(ctx.model, *at, *v)
        return torch.zeros_like(f), change


class _Pull(_Linear):
    """(at, alpha) -> J^T alpha, a tensor for every weight."""

    @staticmethod
    def forward(model: _Model, *leaves: Tensor) -> Leaves:
        at, (alpha,) = model.split(leaves)
        return model.pull(at, alpha)

    @staticmethod
    def backward(ctx: Any, *v: Tensor | None) -> Any:
        at = _constant(ctx, ctx.needs_input_grad[1:])
        zeros = ctx.model.zeros(at)
        full = (zero if part is None else part for zero, part in zip(zeros, v, strict=True))
        return None, *(None for _ in at), _Push.apply(ctx.model, *at, *full)[1]

    @staticmethod
    def jvp(ctx: Any, _model: Any, *tangents: Tensor | None) -> Any:
        at = _constant(ctx, tangents)
        return _Pull.apply(ctx.model, *at, tangents[len(at)])


def _constant(ctx: Any, moving: Any) -> Leaves:
    """The leaves of (w, x), if they are taken as constants."""
    at: Leaves = ctx.saved_tensors
    if any(part is not None and part is not False for part in moving[: len(at)]):
        raise SettingError(
            "`model` must be one that torch.func can differentiate where J itself is differentiated, by weights or "
            "samples; got one that plain autograd alone can. Leave out checkpointing, hooks and old autograd functions."
        )
    return at
