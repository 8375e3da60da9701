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
from functools import cached_property
from itertools import pairwise
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor

from fedtangent.tangents.capture.factors import Factors, Gated, Last, Some, sensitivities
from fedtangent.tangents.capture.functional import Weights
from fedtangent.tangents.capture.layers import Matrix
from fedtangent.tangents.capture.uses import Use, Uses

Kind = Literal["full", "trace", "diagonal"]
Way = Literal["explicit", "factors"]
Piece = slice | None  # of a matrix: some of its groups, or some of its rows where there is one group

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

    @cached_property  # the search for a budget asks a thousand times
    def matrix(self) -> Matrix | None:
        """The matrix that all of the uses apply in one and the same way, if they do."""
        first = self.uses[0]
        if not isinstance(first, Matrix):
            return None
        same = [one for one in self.uses if isinstance(one, Matrix) and _role(one) == _role(first)]
        return first if len(same) == len(self.uses) else None

    @cached_property
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
    """One operand of a part of the kernel. u: inputs. d: sensitivities, or explicit gradients where u is None.

    At one position, u is (n, I) and d is (n, C, O), or for the trace (n, O) with 1/C sum_c d_nc . d_mc as its products;
    None means the identity. At several, u and d are (n, G, I, S) and (n, C, G, O, S). Gradients are (n, C, p). Of d and
    of the gradients there are only some outputs, where those are cut.
    """

    u: Tensor | None
    d: Tensor | None
    outputs: Some

    @property
    def samples(self) -> int:
        """How many."""
        return len(cast(Tensor, self.d if self.u is None else self.u))

    def rows(self, part: slice) -> "Side":
        """Of some of the samples."""
        u, d = (None if side is None else side[part] for side in (self.u, self.d))
        return Side(u, d, self.outputs)

    def at(self, spots: slice) -> "Side":
        """At some of several positions."""
        u, d = (None if side is None else side[..., spots] for side in (self.u, self.d))
        return Side(u, d, self.outputs)


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


def gradients(part: Part, w: Weights, factors: Factors, head: Tensor, outputs: Some | None = None) -> dict[str, Tensor]:
    """The gradients (n, C, ...) by a part's parameters, summed over its uses."""
    total: dict[str, Tensor] = {}
    for key, one in zip(part.keys, part.uses, strict=True):
        found = one.gradients(w, factors[key].a, sensitivities(factors[key], one.call.shapes, head, outputs))
        for name, gradient in found.items():
            total[name] = total[name] + gradient if name in total else gradient
    return total


def side(
    part: Part, way: Way, kind: Kind, w: Weights, factors: Factors, head: Tensor, outputs: Some, piece: Piece = None
) -> Side:
    """What the samples of these factors, which are those of some `outputs`, bring to a part, or to a piece of it."""
    matrix = part.matrix
    if way == "explicit":
        if matrix is not None and not matrix.lookup:
            return Side(None, _outer_products(matrix, *_inner_and_outer(part, factors, head, outputs), piece), outputs)
        found = gradients(part, w, factors, head, outputs)
        flat = [found[name].reshape(*found[name].shape[:2], -1) for name in part.names]
        return Side(None, flat[0] if len(flat) == 1 else torch.cat(flat, 2), outputs)
    assert matrix is not None
    if part.positions == 1 and not matrix.lookup and matrix.groups == 1:
        factor = factors[part.keys[0]]
        u = matrix.inner(factor.a).flatten(1)  # of a convolution only what its one window sees
        if isinstance(factor, Last):
            return Side(u, None, outputs)
        if kind != "trace":
            return Side(u, sensitivities(factor, matrix.call.shapes, head, outputs)[0].flatten(2), outputs)
        if isinstance(factor, Gated):
            return Side(u, factor.gate * ((head[outputs.part] ** 2).sum(0) / outputs.of).sqrt(), outputs)
        return Side(u, factor.d[0].flatten(1) / math.sqrt(outputs.of), outputs)
    return Side(*_inner_and_outer(part, factors, head, outputs), outputs)


def _inner_and_outer(part: Part, factors: Factors, head: Tensor, outputs: Some) -> tuple[Tensor, Tensor]:
    """u (n, G, I, S) and d (n, C, G, O, S) of a matrix at all positions of all its uses."""
    us, ds = [], []
    for key, one in zip(part.keys, part.uses, strict=True):
        assert isinstance(one, Matrix)
        us.append(one.inner(factors[key].a))
        ds.append(one.outer(sensitivities(factors[key], one.call.shapes, head, outputs)))
    return (torch.cat(us, -1), torch.cat(ds, -1)) if len(us) > 1 else (us[0], ds[0])


def _outer_products(matrix: Matrix, u: Tensor, d: Tensor, piece: Piece) -> Tensor:
    """sum_s d_s (u_s, 1)^T, (n, C, p): the gradients by a matrix and its bias, each row with its own.

    By a piece of it only: some groups, or some rows where there is one group.
    """
    if piece is not None and matrix.groups > 1:
        u, d = u[:, piece], d[:, :, piece]
    elif piece is not None:
        d = d[:, :, :, piece]
    if matrix.bias is not None:
        u = torch.cat([u, torch.ones_like(u[:, :, :1])], 2)
    return torch.einsum("ncgos,ngis->ncgoi", d, u).flatten(2)


def share(kind: Kind, part: Part, own: Side, other: Side, most: float = math.inf, spots: float = math.inf) -> Tensor:
    """A part's share of a tile: (n, C, m, C) of the full kernel, (n, m) of the trace, (n, m, C) of the diagonal.

    Where a side has more samples than `most`, it is put together from smaller tiles; where it has more positions than
    `spots`, it is the sum over cuts of them.
    """
    if max(own.samples, other.samples) > most:
        rows, columns = ([side.rows(cut) for cut in cuts(side.samples, int(most))] for side in (own, other))
        strips = [[share(kind, part, row, column, spots=spots) for column in columns] for row in rows]
        return torch.cat([torch.cat(strip, 2 if kind == "full" else 1) for strip in strips])
    if own.u is None or other.u is None:
        return _explicit(kind, own, other)
    if own.u.dim() == 2 and not (part.matrix and part.matrix.lookup):
        return _single(kind, part, own, other)
    if spots < own.u.shape[-1]:
        places = cuts(own.u.shape[-1], int(spots))
        return _summed(_shared(kind, part, own.at(s), other.at(t)) for s in places for t in places)
    return _shared(kind, part, own, other)


def total(
    kind: Kind,
    parts: Sequence[Part],
    own: Sequence[Side],
    other: Sequence[Side],
    most: Sequence[float] | None = None,
    spots: Sequence[float] | None = None,
) -> Tensor:
    """The sum of the shares of some parts, with `most` and `spots` for each."""
    found: Tensor | None = None
    whole = [math.inf] * len(parts)
    for part, row, column, size, places in zip(parts, own, other, most or whole, spots or whole, strict=True):
        if found is not None and kind == "full" and row.d is None:
            if row.outputs == column.outputs:
                found.diagonal(dim1=1, dim2=3).add_(_gram(part, row, column)[..., None])
        elif found is not None:
            found += share(kind, part, row, column, size, places)
        else:
            found = share(kind, part, row, column, size, places)
    assert found is not None
    return found


def cuts(length: int, size: int) -> list[slice]:
    """Slices of about one length, at most `size`, that cover it."""
    count = math.ceil(length / size)
    ends = [length * i // count for i in range(count + 1)]
    return [slice(start, end) for start, end in pairwise(ends)]


def _explicit(kind: Kind, own: Side, other: Side) -> Tensor:
    assert own.d is not None and other.d is not None
    if kind == "full":
        return (own.d.flatten(0, 1) @ other.d.flatten(0, 1).mT).view(*own.d.shape[:2], *other.d.shape[:2])
    if kind == "trace":
        return own.d.flatten(1) @ other.d.flatten(1).mT / own.outputs.of
    return (own.d.movedim(1, 0) @ other.d.movedim(1, 0).mT).movedim(0, 2)


def _single(kind: Kind, part: Part, own: Side, other: Side) -> Tensor:
    gram = _gram(part, own, other)
    if own.d is None or other.d is None:
        return _identity(kind, gram, own.outputs, other.outputs)
    if kind == "full":
        rows, columns = own.outputs.count, other.outputs.count
        found = (own.d.flatten(0, 1) @ other.d.flatten(0, 1).mT).view(len(own.d), rows, len(other.d), columns)
        # written out along the rows: four times as fast as a product that broadcasts over both outputs
        found.view(len(own.d), rows, -1).mul_(gram.repeat_interleave(columns, 1)[:, None])
        return found
    if kind == "trace":
        return gram.mul_(own.d @ other.d.mT)
    return gram[..., None] * (own.d.movedim(1, 0) @ other.d.movedim(1, 0).mT).movedim(0, 2)


def _identity(kind: Kind, gram: Tensor, own: Some, other: Some) -> Tensor:
    """What the last linear map adds, whose sensitivities are the identity."""
    if kind == "trace":
        return gram if own.count == own.of else gram.mul_(own.count / own.of)
    if kind == "diagonal":
        return gram[..., None].expand(-1, -1, own.count).clone()
    found = gram.new_zeros(len(gram), own.count, gram.shape[1], other.count)
    if own == other:
        found.diagonal(dim1=1, dim2=3).copy_(gram[..., None])
    return found


def _gram(part: Part, own: Side, other: Side) -> Tensor:
    """a_n . a_m, (n, m), the 1 of the bias included."""
    assert own.u is not None and other.u is not None and part.matrix is not None
    gram = own.u @ other.u.mT
    if part.matrix.bias is not None:
        gram += 1
    return gram


def _shared(kind: Kind, part: Part, own: Side, other: Side) -> Tensor:
    assert (
        own.u is not None
        and other.u is not None
        and own.d is not None
        and other.d is not None
        and part.matrix is not None
    )
    alike = part.matrix.alike(own.u, other.u).to(own.d.dtype)  # (G, n, S, m, T)
    if kind == "full":
        return _summed(map(_shared_full, own.d.unbind(2), other.d.unbind(2), alike))
    if kind == "trace":
        return _summed(map(_shared_trace, own.d.unbind(2), other.d.unbind(2), alike)) / own.outputs.of
    by_output = zip(torch.split(own.d, 1, 1), torch.split(other.d, 1, 1), strict=True)
    return torch.stack([_summed(map(_shared_trace, d.unbind(2), e.unbind(2), alike)) for d, e in by_output], -1)


def _shared_full(own: Tensor, other: Tensor, alike: Tensor) -> Tensor:
    """sum_st (d_ns . d_mt) (u_ns . u_mt), (n, C, m, C'), for d (n, C, O, S) and (m, C', O, T).

    By way of sum_t d_mt (u_ns . u_mt), one sample n at a time, so that it is read while it is in the cache.
    """
    (_, b, o, s), (m, c, _, _) = own.shape, other.shape
    found = []
    for d, one in zip(own, alike, strict=True):
        both = one.transpose(0, 1)[:, None] @ other.mT  # (m, C', S, O)
        found.append((d.mT.reshape(b, s * o) @ both.reshape(m * c, s * o).mT).view(b, m, c))
    return torch.stack(found)


def _shared_trace(own: Tensor, other: Tensor, alike: Tensor) -> Tensor:
    """sum_cst (d_ncs . d_mct) (u_ns . u_mt), (n, m)."""
    (n, _, _, s), (m, _, _, t) = own.shape, other.shape
    mine, theirs = (d.permute(0, 3, 1, 2).reshape(k, -1) for d, k in ((own, n * s), (other, m * t)))
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
