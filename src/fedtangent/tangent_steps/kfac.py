"""The Gauss-Newton matrix from sums over samples, by Kronecker factors: moments of inputs and of output sensitivities.

Martens, Grosse. Optimizing Neural Networks with Kronecker-factored Approximate Curvature. ICML 2015. Grosse, Martens.
A Kronecker-factored approximate Fisher matrix for convolution layers. ICML 2016 (positions).

With inputs u at S positions, sensitivities d of the C outputs, and H the loss's second derivative by them, a layer's
block of J^T H J is about A (x) B, A = sum over samples and positions of u u^T, B = the mean over positions of d^T H d.
N samples; G groups of a convolution; I inputs, the bias's 1 among them, and O results of a group.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from fedtangent import shard, trees
from fedtangent.errors import SettingError
from fedtangent.federation import disclosure
from fedtangent.shard import Shard
from fedtangent.tangent_steps import of_task, once, slices
from fedtangent.tangent_steps.blocks import Block, Other, blocks, matrix_of, of_matrix, of_vector, parameters
from fedtangent.tangent_steps.triangles import diagonal, pack, unpack
from fedtangent.tangents.capture.factors import Factor, Factors, Last, factors, head, kept_inputs, sensitivities
from fedtangent.tangents.capture.functional import Weights
from fedtangent.tangents.capture.kernel_operator import backward
from fedtangent.tangents.capture.layers import Matrix
from fedtangent.tangents.capture.uses import Uses
from fedtangent.training import losses
from fedtangent.training.task import Task

# The most parameters of a block that is kept whole.
_LARGEST = 8192


class Moments(NamedTuple):
    """Additive sufficient statistics of a client's rows: a sum of several clients' moments is moments, too.

    Attributes:
        gradient: Of the loss by the parameters.
        inputs: A of linear maps, upper triangles (G, I (I + 1) / 2), by their block's name; of look-ups the diagonal,
            (I,).
        outputs: B of every linear map, (G, O (O + 1) / 2); of whole blocks J^T H J, (1, P (P + 1) / 2).
        rows: How many.
    """

    gradient: Weights
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    rows: Tensor


def moments(
    task: Task,
    w: Weights,
    data: Shard,
    *,
    other: Other = "refuse",
    inputs: Literal["all", "moving"] = "all",
    weight_decay: float = 0.0,
) -> Moments:
    """The sums over a node's real rows, at w: a forward, at most C backward passes, N G S (I^2 + C O^2) multiply-adds.

    Args:
        task: Model and loss.
        w: The weights.
        data: The rows.
        other: As for `blocks`.
        inputs: Which A: of all linear maps, or of those whose inputs move with the weights; see `fixed_inputs`.
        weight_decay: lambda, of lambda |w|^2 / 2 in every row's loss; in the gradient alone.
    """
    found = of_task.uses(task, w, data.x)
    made = blocks(found, other)
    whole = [block.uses for block in made.values() if not block.kronecker]

    of_rows = _moments if found.chain is None or whole else _of_chain

    def one(data: Shard) -> Moments:
        return of_rows(task, w, data, found, made, inputs, weight_decay)

    return slices.summed(one, data, slices.of_moments(found, w, whole))  # type: ignore[no-any-return]


def _moments(
    task: Task, w: Weights, data: Shard, found: Uses, made: dict[str, Block], inputs: str, weight_decay: float
) -> Moments:
    """`moments` of rows that fit in memory together."""
    f, parts = factors(of_task.function(task), w, of_task.samples(data.x), found)
    residual, root = _derivatives(task, f, data)
    gradient: Weights = {}
    a: dict[str, Tensor] = {}
    b: dict[str, Tensor] = {}
    for key, block in made.items():
        own = shard.cleared({one: parts[one] for one in block.uses}, data.real)
        if not block.kronecker:
            j = shard.cleared(_rows(found, w, own, block, parameters(key)), data.real)  # of zeros there may be no slope
            gradient |= of_vector(torch.einsum("nc,ncp->p", residual, j), w, key)
            d = torch.einsum("nck,ncp->nkp", root, j).flatten(0, 1)
            b[key] = pack((d.mT @ d)[None])
            continue
        total, positions = None, 0
        for one in block.uses:
            use = found.by_name[one]
            assert isinstance(use, Matrix)
            positions += use.positions
            wanted = inputs == "all" or not block.fixed
            d = use.outer(sensitivities(own[one], use.call.shapes, head(found, w)))
            u = _inputs(own[one], use, data.real)
            if use.lookup:
                d = torch.where(_read(use, u)[:, None, None, None], d, 0)
                slope = _looked_up(use, u, torch.einsum("ncgos,nc->nso", d, residual)).mT[None]
            else:
                slope = torch.einsum("ncgos,nc,ngis->goi", d, residual, u)
            sums = (
                slope,
                _input_moments(use, u, data.real, d) if wanted else d.new_zeros(0),
                _squares(torch.einsum("nck,ncgos->gnkso", root, d)),
            )
            total = sums if total is None else trees.add(total, sums)
        assert total is not None
        gradient |= of_matrix(total[0], w, key)
        if wanted:
            a[key] = total[1] if block.lookup else pack(total[1])
        b[key] = pack(total[2] / positions)
    return _sums(found, w, data, gradient, a, b, weight_decay)


def _of_chain(
    task: Task, w: Weights, data: Shard, found: Uses, made: dict[str, Block], inputs: str, weight_decay: float
) -> Moments:
    """`_moments` of a chain: all derivatives go back through a map in one product, (1 + C, N, O)."""
    f, parts = once.linearised(task, w, data.x, found)
    residual, root = _derivatives(task, f, data)
    alpha = torch.cat([residual[None], root.permute(2, 0, 1)])
    gradient: Weights = {}
    a: dict[str, Tensor] = {}
    b: dict[str, Tensor] = {}
    for key, block in made.items():
        (name,) = block.uses
        use, factor = found.by_name[name], shard.cleared(parts[name], data.real)
        assert isinstance(use, Matrix)
        d = backward(factor, alpha, head(found, w))
        gradient[use.weight] = use.layout.back((d[0].mT @ factor.a[0].flatten(1))[None])
        if use.bias is not None and use.bias_layout is not None:
            gradient[use.bias] = use.bias_layout.back(d[0].sum(0, keepdim=True))
        if inputs == "all" or not block.fixed:
            a[key] = pack(_input_moments(use, _inputs(factor, use, data.real), data.real, d))
        b[key] = pack(_squares(d[None, 1:]))
    return _sums(found, w, data, gradient, a, b, weight_decay)


def _derivatives(task: Task, f: Tensor, data: Shard) -> tuple[Tensor, Tensor]:
    """The loss's first derivative by the outputs (n, C) and a root of its second (n, C, C); 0 in padded rows."""
    residual = torch.where(data.real[:, None], task.loss.residual(f, data.y), 0)
    return residual, torch.where(data.real[:, None, None], losses.curvature_root(task.loss, f, data.y), 0)


def _sums(
    found: Uses,
    w: Weights,
    data: Shard,
    gradient: Weights,
    a: dict[str, Tensor],
    b: dict[str, Tensor],
    weight_decay: float,
) -> Moments:
    """The moments of these parts, with the gradients of what nothing depends on and of the weight decay."""
    rows = data.real.sum()
    gradient |= {name: torch.zeros_like(w[name]) for name in found.unused}
    gradient = {
        name: torch.addcmul(gradient[name], part, rows.to(part), value=weight_decay) for name, part in w.items()
    }
    return Moments(gradient, a, b, rows)


def rows_of_moments(found: Moments) -> Tensor:
    """How many rows moments are of; 0 where a diagonal is negative, which no sum of squares has."""
    return _rows_of_squares([*found.inputs.values(), *found.outputs.values()], found.rows)


def rows_of_inputs(found: tuple[dict[str, Tensor], Tensor]) -> Tensor:
    """The same of input moments and their number of rows."""
    return _rows_of_squares([*found[0].values()], found[1])


def _rows_of_squares(packed: Sequence[Tensor], rows: Tensor) -> Tensor:
    """`rows`; 0 where matrices, packed or, of look-ups, their diagonals, are no sums of squares."""
    fine = [((part if part.dim() == 1 else diagonal(part)) >= 0).all() for part in packed]
    return torch.where(torch.stack(fine).all(), rows, 0) if fine else rows


def fixed_inputs(task: Task, data: Shard, *, other: Other = "refuse") -> tuple[dict[str, Tensor], Tensor]:
    """A of the linear maps whose inputs are the data's, whatever the weights, packed sums; and how many rows."""
    return _inputs_of(task, task.w_0, data, other, lambda block: block.fixed)


def all_inputs(task: Task, w: Weights, data: Shard) -> tuple[dict[str, Tensor], Tensor]:
    """A of all linear maps at w, packed sums; and how many rows. A forward pass; of other parameters nothing."""
    return _inputs_of(task, w, data, "exact", lambda block: block.kronecker)


def _inputs_of(
    task: Task, w: Weights, data: Shard, other: Other, wanted: Callable[[Block], bool]
) -> tuple[dict[str, Tensor], Tensor]:
    found = of_task.uses(task, w, data.x)
    chosen = {key: block.uses for key, block in blocks(found, other).items() if wanted(block)}
    uses = [use for its in chosen.values() for use in its]
    like = next(iter(w.values()))

    def one(data: Shard) -> dict[str, Tensor]:
        kept = kept_inputs(of_task.function(task), w, of_task.samples(data.x), found, uses)
        a: dict[str, Tensor] = {}
        for key, its in chosen.items():
            for number, use in enumerate(its):
                matrix, factor = found.by_name[use], Last(shard.cleared(kept[use], data.real))
                assert isinstance(matrix, Matrix)
                total = _input_moments(matrix, _inputs(factor, matrix, data.real), data.real, like)
                total = total if matrix.lookup else pack(total)
                a[key] = a[key] + total if number else total
        return a

    a = slices.summed(one, data, slices.of_inputs(found, w, uses)) if uses else {}
    return a, data.real.sum()


def sizes(task: Task, data: Shard, *, other: Other = "refuse") -> tuple[Tensor, Tensor, Tensor]:
    """A node's rows; and the rows of a sum that hide each of them, of `fixed_inputs` and of `moments` without those.

    Twice the most entries of an input u; of whole blocks, which a row spans with C vectors, twice their parameters / C.
    """
    found = of_task.uses(task, task.w_0, data.x)
    fewest = [0, 0]
    for key, block in blocks(found, other).items():
        use = found.by_name[block.uses[0]]
        if block.kronecker:
            assert isinstance(use, Matrix)
            entries = use.fan_in + (use.bias is not None)
        else:
            entries = -(-sum(task.w_0[name].numel() for name in parameters(key)) // found.outputs)
        place = 0 if block.fixed else 1
        fewest[place] = max(fewest[place], disclosure.least(entries))
    first, others = torch.tensor(fewest, device=data.y.device)
    return data.real.sum(), first, others


def directions(total: Moments, a: dict[str, Tensor], dampings: Sequence[float]) -> Weights:
    """(B / b + sqrt(m) 1)^-1 G (A / a + sqrt(m) 1)^-1 / (a b) for every damping m; a and b are mean eigenvalues.

    Factored Tikhonov damping (Martens and Grosse, section 6.3), relative to the curvature of the layer. A factorisation
    of every factor a damping.

    Args:
        total: Sums over all rows.
        a: A of the linear maps of which `total` has none, packed means over rows.
        dampings: m, positive.

    Returns:
        Like the parameters, with a leading axis; along each the loss rises. NaN where a factor is not positive
        semi-definite beyond the damping; zero for parameters without curvature.
    """
    found: Weights = {}
    for key, packed in total.outputs.items():
        b = unpack(packed) / total.rows
        if key in total.inputs or key in a:
            g = matrix_of(total.gradient, key, *b.shape[:2]) / total.rows
            inputs = total.inputs[key] / total.rows if key in total.inputs else a[key]
            inputs = inputs if inputs.dim() == 1 else unpack(inputs)
            roots = [m**0.5 for m in dampings]
            left = [part.mT for part in _solved([g.mT] * len(roots), b, roots)]
            steps = _solved(left, inputs, roots)
            found |= of_matrix(torch.stack(steps), total.gradient, key)
        else:
            g = torch.cat([total.gradient[name].flatten() for name in parameters(key)])[None, None] / total.rows
            steps = _solved([g] * len(dampings), b, dampings)
            found |= of_vector(torch.stack([step.flatten() for step in steps]), total.gradient, key)
    still = {name: part.new_zeros(len(dampings), *part.shape) for name, part in total.gradient.items()}
    return {name: found.get(name, part) for name, part in still.items()}


def _inputs(factor: Factor, use: Matrix, real: Tensor) -> Tensor:
    """u (n, G, I, S) with the bias's 1, of real rows; the rows that are looked up (n, S)."""
    u = use.inner(factor.a)
    if use.bias is not None:
        u = torch.cat([u, torch.ones_like(u[:, :, :1])], 2)
    cleared: Tensor = shard.cleared(u, real)
    return cleared


def _input_moments(use: Matrix, u: Tensor, real: Tensor, like: Tensor) -> Tensor:
    """The sum of u u^T, (G, I, I); of a look-up its diagonal (I,), in the type of `like`."""
    if not use.lookup:
        return _squares(u.permute(1, 0, 3, 2))
    read = real[:, None] & _read(use, u)
    return _looked_up(use, u, read[..., None].to(like))[:, 0]


def _read(use: Matrix, u: Tensor) -> Tensor:
    """Which of the rows that are looked up are trained."""
    return torch.ones_like(u, dtype=torch.bool) if use.skipped is None else u != use.skipped


def _looked_up(use: Matrix, u: Tensor, numbers: Tensor) -> Tensor:
    """The sums (I, O) of numbers (n, S, O) over the places where each row is looked up."""
    numbers = numbers.flatten(0, 1)
    rows = u.flatten()[:, None].expand(-1, numbers.shape[1])
    return numbers.new_zeros(use.fan_in, numbers.shape[1]).scatter_add(0, rows, numbers)


def _rows(found: Uses, w: Weights, parts: Factors, block: Block, names: list[str]) -> Tensor:
    """The Jacobian's rows by the parameters of a block, (n, C, P)."""
    size = sum(w[name].numel() for name in names)
    if size > _LARGEST:
        raise SettingError(
            f"`model` must keep whole blocks within {_LARGEST} parameters; got {size} in {names[0]!r}. "
            "Freeze it, or give it a linear map."
        )
    total: dict[str, Tensor] = {}
    for key in block.uses:
        use = found.by_name[key]
        d = sensitivities(parts[key], use.call.shapes, head(found, w))
        for name, part in use.gradients(w, parts[key].a, d).items():
            total[name] = total[name] + part if name in total else part
    return torch.cat([total[name].reshape(*total[name].shape[:2], -1) for name in names], 2)


def _squares(d: Tensor) -> Tensor:
    """The sum of d d^T over all but the first and last axes, (G, O, O)."""
    rows = d.flatten(1, -2)
    return rows.mT @ rows


def _solved(rows: Sequence[Tensor], factor: Tensor, dampings: Sequence[float]) -> list[Tensor]:
    """R (F / f + damping 1)^-1 / f of every R (..., n, I) and its damping, f the mean eigenvalue of F.

    F is a matrix (..., I, I), or the diagonal (I,) of one; NaN where it is not positive semi-definite. Zero where F is
    zero, as below a last layer of zeros: without curvature there is no length of a step.
    """
    if factor.dim() == 1:
        mean = _mean(factor)
        return [right / (factor / mean + damping) / mean for right, damping in zip(rows, dampings, strict=True)]
    mean = _mean(factor.diagonal(dim1=-2, dim2=-1))[..., None, None]
    damped = factor / mean
    own = damped.diagonal(dim1=-2, dim2=-1).clone()
    found = []
    for right, damping in zip(rows, dampings, strict=True):
        damped.diagonal(dim1=-2, dim2=-1).copy_(own + damping)
        lower, failed = torch.linalg.cholesky_ex(damped)
        # from the right: as fast as any, and several times as fast where there are more rows than entries in one
        half = torch.linalg.solve_triangular(lower.mT, right, upper=True, left=False)
        solved = torch.linalg.solve_triangular(lower, half, upper=False, left=False) / mean
        found.append(torch.where(failed[..., None, None] == 0, solved, torch.nan))
    return found


def _mean(diagonal: Tensor) -> Tensor:
    """The mean along the last axis, by which a factor is divided: infinite instead of zero."""
    mean = diagonal.mean(-1)
    return torch.where(mean == 0, torch.inf, mean.clamp_min(torch.finfo(mean.dtype).tiny))
