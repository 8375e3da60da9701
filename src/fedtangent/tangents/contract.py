"""How a use's factors become its part of a kernel: which way is cheapest, and the contraction itself.

A matrix at S positions, G groups of I inputs and O results, C outputs, p = G I O: operations for a pair of samples are

    full      explicit 2 C^2 p      factors G (2 S^2 I + 2 C S^2 O + 2 C^2 S O), at S = 1 G (2 I + 2 C^2 O)
    trace     explicit 2 C p        factors G (2 S^2 I + 2 C S^2 O)
    diagonal  explicit 2 C p        factors G (2 S^2 I + 2 C S^2 O)

as in Novak, Sohl-Dickstein, Schoenholz (Fast finite width neural tangent kernel, 2022), there for whole networks.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from fedtangent.tangents.factors import Factors, Gated, Last, sensitivities
from fedtangent.tangents.functional import Weights
from fedtangent.tangents.layers import Matrix
from fedtangent.tangents.uses import Use, Uses

Kind = Literal["full", "trace", "diagonal"]
Way = Literal["explicit", "factors"]

# The full kernel's many small products run slower than one large one, by about this factor.
_SMALL = 2.0


@dataclass(frozen=True)
class Part:
    """Uses that share parameters, so that their gradients are summed before they are contracted: nearly always one.

    Attributes:
        keys: Of the uses.
        uses: Those themselves.
        names: The parameters.
        size: How many numbers those hold, p.
    """

    keys: tuple[str, ...]
    uses: tuple[Use, ...]
    names: tuple[str, ...]
    size: int

    @property
    def matrix(self) -> Matrix | None:
        """The matrix that all of the uses apply in one and the same way, if they do."""
        first = self.uses[0]
        if not isinstance(first, Matrix):
            return None
        same = [one for one in self.uses if isinstance(one, Matrix) and _role(one) == _role(first)]
        return first if len(same) == len(self.uses) else None

    @property
    def positions(self) -> int:
        """S, over all uses."""
        return sum(one.positions for one in self.uses if isinstance(one, Matrix))

    def operations(self, kind: Kind, outputs: int, gated: bool = False) -> dict[Way, float]:
        """For a pair of samples, by the ways there are; `gated` says that sensitivities are known as gates."""
        c = outputs
        ways: dict[Way, float] = {"explicit": 2.0 * c * self.size * (c if kind == "full" else 1)}
        if (matrix := self.matrix) is not None:
            s, g, o = self.positions, matrix.groups, matrix.fan_out
            i = 0 if matrix.lookup else matrix.fan_in
            if s == 1:
                each = {"full": c * c, "trace": 1 if gated else c, "diagonal": c}[kind]
                ways["factors"] = 2.0 * g * (i + each * o)
            else:
                ways["factors"] = 2.0 * g * (s**2 * i + c * s**2 * o + (c**2 * s * o if kind == "full" else 0))
        return ways

    def way(self, kind: Kind, outputs: int) -> Way:
        """The cheapest."""
        ways = self.operations(kind, outputs)
        slow = _SMALL if kind == "full" and self.positions > 1 else 1.0
        return "factors" if slow * ways.get("factors", math.inf) <= ways["explicit"] else "explicit"


class Side(NamedTuple):
    """What some samples bring to a part. u: their inputs. d: sensitivities, or explicit gradients where u is None.

    At one position u is (n, I) and d is (n, C, O), or for the trace (n, O) with 1/C sum_c d_nc . d_mc as its products;
    None means the identity. At more u and d are (n, G, I, S) and (n, C, G, O, S). Gradients are (n, C, p).
    """

    u: Tensor | None
    d: Tensor | None

    @property
    def samples(self) -> int:
        """How many."""
        return next(len(side) for side in self if side is not None)

    def rows(self, part: slice) -> "Side":
        """Of some of the samples."""
        return Side(*(None if side is None else side[part] for side in self))


def parts(uses: Uses, w: Weights) -> list[Part]:
    """The uses, those that share parameters together, in the order of the forward pass."""
    groups: list[tuple[list[str], set[str]]] = []
    for key, one in uses.by_name.items():
        names = set(one.call.names)
        linked = [group for group in groups if group[1] & names]
        keys = [key for group in linked for key in group[0]] + [key]
        groups = [group for group in groups if group not in linked] + [(keys, names.union(*(g[1] for g in linked)))]
    return [
        Part(
            tuple(keys),
            tuple(uses.by_name[key] for key in keys),
            tuple(name for name in w if name in names),
            sum(w[name].numel() for name in names),
        )
        for keys, names in groups
    ]


def gradients(part: Part, w: Weights, factors: Factors, head: Tensor) -> dict[str, Tensor]:
    """The gradients (n, C, ...) by a part's parameters, summed over its uses."""
    total: dict[str, Tensor] = {}
    for key, one in zip(part.keys, part.uses, strict=True):
        found = one.gradients(w, factors[key].a, sensitivities(factors[key], one.call.shapes, head))
        for name, gradient in found.items():
            total[name] = total[name] + gradient if name in total else gradient
    return total


def side(part: Part, way: Way, kind: Kind, w: Weights, factors: Factors, head: Tensor) -> Side:
    """What the samples of these factors bring to a part."""
    matrix = part.matrix
    if way == "explicit":
        if matrix is not None and not matrix.lookup:
            return Side(None, _outer_products(matrix, *_inner_and_outer(part, factors, head)))
        found = gradients(part, w, factors, head)
        flat = [found[name].reshape(*found[name].shape[:2], -1) for name in part.names]
        return Side(None, flat[0] if len(flat) == 1 else torch.cat(flat, 2))
    assert matrix is not None
    if part.positions == 1 and not matrix.lookup and matrix.groups == 1:
        factor = factors[part.keys[0]]
        u = matrix.inner(factor.a).flatten(1)  # of a convolution only what its one window sees
        if isinstance(factor, Last):
            return Side(u, None)
        if kind != "trace":
            return Side(u, sensitivities(factor, matrix.call.shapes, head)[0].flatten(2))
        if isinstance(factor, Gated):
            return Side(u, factor.gate * (head**2).mean(0).sqrt())
        return Side(u, factor.d[0].flatten(1) / math.sqrt(factor.d[0].shape[1]))
    return Side(*_inner_and_outer(part, factors, head))


def _inner_and_outer(part: Part, factors: Factors, head: Tensor) -> tuple[Tensor, Tensor]:
    """u (n, G, I, S) and d (n, C, G, O, S) of a matrix at all positions of all its uses."""
    us, ds = [], []
    for key, one in zip(part.keys, part.uses, strict=True):
        assert isinstance(one, Matrix)
        us.append(one.inner(factors[key].a))
        ds.append(one.outer(sensitivities(factors[key], one.call.shapes, head)))
    return (torch.cat(us, -1), torch.cat(ds, -1)) if len(us) > 1 else (us[0], ds[0])


def _outer_products(matrix: Matrix, u: Tensor, d: Tensor) -> Tensor:
    """sum_s d_s (u_s, 1)^T, (n, C, p): the gradients by a matrix and its bias, each row with its own."""
    if matrix.bias is not None:
        u = torch.cat([u, torch.ones_like(u[:, :, :1])], 2)
    return torch.einsum("ncgos,ngis->ncgoi", d, u).flatten(2)


def share(kind: Kind, part: Part, own: Side, its: Side, outputs: int, most: float = math.inf) -> Tensor:
    """A part's share of a tile: (n, C, m, C) of the full kernel, (n, m) of the trace, (n, m, C) of the diagonal.

    Where a side has more samples than `most`, it is put together from smaller tiles.
    """
    if max(own.samples, its.samples) > most:
        rows, columns = ([side.rows(cut) for cut in cuts(side.samples, int(most))] for side in (own, its))
        strips = [[share(kind, part, row, column, outputs) for column in columns] for row in rows]
        return torch.cat([torch.cat(strip, 2 if kind == "full" else 1) for strip in strips])
    if own.u is None or its.u is None:
        return _explicit(kind, own, its, outputs)
    if own.u.dim() == 2 and not (part.matrix and part.matrix.lookup):
        return _single(kind, part, own, its, outputs)
    return _shared(kind, part, own, its, outputs)


def total(
    kind: Kind,
    parts: Sequence[Part],
    own: Sequence[Side],
    its: Sequence[Side],
    outputs: int,
    most: Sequence[float] | None = None,
) -> Tensor:
    """The sum of the shares of some parts, `most` for each."""
    found: Tensor | None = None
    for part, row, column, size in zip(parts, own, its, most or [math.inf] * len(parts), strict=True):
        if found is not None and kind == "full" and row.d is None:
            found.diagonal(dim1=1, dim2=3).add_(_gram(part, row, column)[..., None])
        elif found is not None:
            found += share(kind, part, row, column, outputs, size)
        else:
            found = share(kind, part, row, column, outputs, size)
    assert found is not None
    return found


def cuts(length: int, size: int) -> list[slice]:
    """Slices of about one length, at most `size`, that cover it."""
    count = math.ceil(length / size)
    ends = [length * i // count for i in range(count + 1)]
    return [slice(start, end) for start, end in pairwise(ends)]


def _explicit(kind: Kind, own: Side, its: Side, outputs: int) -> Tensor:
    assert own.d is not None and its.d is not None
    if kind == "full":
        return (own.d.flatten(0, 1) @ its.d.flatten(0, 1).mT).view(len(own.d), outputs, len(its.d), outputs)
    if kind == "trace":
        return own.d.flatten(1) @ its.d.flatten(1).mT / outputs
    return (own.d.movedim(1, 0) @ its.d.movedim(1, 0).mT).movedim(0, 2)


def _single(kind: Kind, part: Part, own: Side, its: Side, outputs: int) -> Tensor:
    gram = _gram(part, own, its)
    if own.d is None or its.d is None:
        if kind == "trace":
            return gram
        ones = torch.eye(outputs, dtype=gram.dtype, device=gram.device)
        return (
            gram[:, None, :, None] * ones[:, None]
            if kind == "full"
            else gram[..., None].expand(-1, -1, outputs).clone()
        )
    if kind == "full":
        found = (own.d.flatten(0, 1) @ its.d.flatten(0, 1).mT).view(len(own.d), outputs, len(its.d), outputs)
        # written out along the rows: four times as fast as a product that broadcasts over both outputs
        found.view(len(own.d), outputs, -1).mul_(gram.repeat_interleave(outputs, 1)[:, None])
        return found
    if kind == "trace":
        return gram.mul_(own.d @ its.d.mT)
    return gram[..., None] * (own.d.movedim(1, 0) @ its.d.movedim(1, 0).mT).movedim(0, 2)


def _gram(part: Part, own: Side, its: Side) -> Tensor:
    """a_n . a_m, (n, m), the 1 of the bias included."""
    assert own.u is not None and its.u is not None and part.matrix is not None
    gram = own.u @ its.u.mT
    if part.matrix.bias is not None:
        gram += 1
    return gram


def _shared(kind: Kind, part: Part, own: Side, its: Side, outputs: int) -> Tensor:
    assert (
        own.u is not None and its.u is not None and own.d is not None and its.d is not None and part.matrix is not None
    )
    alike = part.matrix.alike(own.u, its.u).to(own.d.dtype)  # (G, n, S, m, T)
    if kind == "full":
        return _summed(map(_shared_full, own.d.unbind(2), its.d.unbind(2), alike))
    if kind == "trace":
        return _summed(map(_shared_trace, own.d.unbind(2), its.d.unbind(2), alike)) / outputs
    by_output = zip(torch.split(own.d, 1, 1), torch.split(its.d, 1, 1), strict=True)
    return torch.stack([_summed(map(_shared_trace, d.unbind(2), e.unbind(2), alike)) for d, e in by_output], -1)


def _shared_full(own: Tensor, its: Tensor, alike: Tensor) -> Tensor:
    """sum_st (d_ns . d_mt) (u_ns . u_mt) for d (n, C, O, S) and (m, C, O, T), by way of sum_t d_mt (u_ns . u_mt)."""
    (n, c, o, s), (m, _, _, t) = own.shape, its.shape
    both = alike.permute(2, 0, 1, 3).reshape(m, n * s, t) @ its.permute(0, 3, 1, 2).reshape(m, t, c * o)
    both = both.view(m, n, s, c, o).permute(1, 2, 4, 0, 3).reshape(n, s * o, m * c)
    return (own.mT.reshape(n, c, s * o) @ both).view(n, c, m, c)


def _shared_trace(own: Tensor, its: Tensor, alike: Tensor) -> Tensor:
    """sum_cst (d_ncs . d_mct) (u_ns . u_mt), (n, m)."""
    (n, _, _, s), (m, _, _, t) = own.shape, its.shape
    mine, theirs = (d.permute(0, 3, 1, 2).reshape(k, -1) for d, k in ((own, n * s), (its, m * t)))
    return ((mine @ theirs.mT).view(n, s, m, t) * alike).sum((1, 3))


def _summed(shares: Iterable[Tensor]) -> Tensor:
    """Their sum, in the place of the first."""
    rest = iter(shares)
    found = next(rest)
    for one in rest:
        found += one
    return found


def _role(one: Matrix) -> tuple[object, ...]:
    return one.weight, one.layout, one.bias, one.bias_layout, one.lookup, one.skipped
