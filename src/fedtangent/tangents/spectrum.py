"""What the eigenvalues of a tangent kernel say: how stiff its dynamics are, and how many directions it learns."""

import math
from collections.abc import Callable, Iterator
from numbers import Integral
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedtangent.errors import SettingError, SettingTypeError
from fedtangent.multiply_adds import repeated
from fedtangent.tangents.autocast import without_autocast
from fedtangent.tangents.capture.samples import tensor
from fedtangent.tangents.numerics.symmetric import Operator, Symmetric, read
from fedtangent.tangents.single import check_seed

_TINY = 1e-30
# A matrix with blocks up to this size gives all its eigenvalues.
_ALL = 2048
# Random vectors of an estimate.
_PROBES = 32
# Numbers of a kernel in float64 at a time.
_CHUNK = 2**22


class Spectrum(NamedTuple):
    """What the eigenvalues of a kernel say; made by `spectrum`.

    Attributes:
        eigenvalues: The k largest, the largest first, (k,), float64.
        size: How many there are in all: n C, or n for a kernel (n, n).
        trace: The sum of all of them.
        norm: Frobenius', the root of the sum of their squares.
        trace_error: One standard error of `trace`; 0 where it is no estimate.
        norm_error: One standard error of `norm`; 0 where it is no estimate.
        condition: The largest by the smallest, infinite where that is zero but for rounding; None where only the
            largest are known.
        alignment: With the labels, <K, y y^T> / (|K|_F |y y^T|_F); None without y.
        distance: From the other kernel, 1 - <K, K'> / (|K|_F |K'|_F); None without one.
    """

    eigenvalues: Tensor
    size: int
    trace: float
    norm: float
    trace_error: float
    norm_error: float
    condition: float | None
    alignment: float | None
    distance: float | None

    @property
    def largest(self) -> float:
        """The largest eigenvalue."""
        return float(self.eigenvalues[0])

    @property
    def effective_rank(self) -> float:
        """trace / largest, from 1 to `size`: that many equal eigenvalues would have the same trace."""
        return self.trace / self.largest

    @property
    def stable_step(self) -> float:
        """The largest learning rate for which gradient descent, linearised, cannot grow: 2 size / largest.

        For the squared loss sum (f - y)^2 / (2 n C) and the full kernel; one (n, n) that is the mean over C outputs
        allows C times as much.
        """
        return 2 * self.size / self.largest


@without_autocast()
def spectrum(
    kernel: Tensor | Operator,
    k: int = 10,
    *,
    y: Tensor | None = None,
    other: Tensor | Operator | None = None,
    seed: int = 0,
) -> Spectrum:
    """The k largest eigenvalues of a kernel, and what follows from them.

    A matrix up to 2048 rows gives all its eigenvalues, in some 4/3 size^3 operations in float64; a larger one its
    largest, by Lanczos' method (ARPACK), in some 2 k + 20 products, more where they lie close together; its trace and
    norm are exact. An operator takes 32 products more for trace and norm: exact on the k eigenvectors, estimated on the
    rest by random signs, as in Hutch++ (Meyer, Musco, Musco, Woodruff, Hutch++: optimal stochastic trace estimation,
    2021), with a standard error from the spread; the alignment and the distance share that norm. An operator up to 128
    rows is written out, in as many products, and then exact.

    Args:
        kernel: (n, n, C, C), (n, n), or (n, n, C), which is one kernel for each output; or an operator. Products are
            taken in its own precision.
        k: How many.
        y: Labels (n,) or targets (n, C) (Cristianini, Shawe-Taylor, Elisseeff, Kandola, On kernel-target alignment,
            2001). Labels are one-hot rows minus 1 / C, which for two classes is the paper's +-1; for a kernel (n, n), C
            is the highest label plus one. y y^T is (n, n) for a kernel (n, n); else y is one vector of n C numbers.
        other: A second kernel of the same kind and shape, to take the distance from.
        seed: Of the random vectors.

    Raises:
        TypeError: A kernel that is neither a tensor nor an operator; a k that is no whole number.
        ValueError: A kernel that is zero or not square, symmetric, finite, or plainly not semi-definite; a k below 1
            or above the size; a y or an other kernel that does not fit.

    Example:
        >>> found = spectrum(torch.tensor([[2.0, 1.0], [1.0, 2.0]]), 2)
        >>> found.eigenvalues.tolist(), found.trace, round(found.condition, 6)
        ([3.0, 1.0], 4.0, 3.0)
    """
    check_seed(seed)
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        own = read("kernel", kernel)
        its = None if other is None else read("other", other)
        if its is not None and (its.blocks, its.rows, its.matrix is None) != (own.blocks, own.rows, own.matrix is None):
            raise SettingError(
                f"`other` must be of the kind and shape of kernel, {own.axes}; got {its.axes}. "
                "Take both on the same samples, in one way."
            )
        targets = None if y is None else own.targets(y)
        own.check("kernel", rng)
        if its is not None:
            its.check("other", rng)
        whole = own.matrix is not None and own.rows <= _ALL
        most = own.size if whole else own.size - 1
        if not isinstance(k, Integral):
            raise SettingTypeError(f"`k` must be a whole number; got {type(k).__name__}. Give labels as y=.")
        if not 1 <= k <= most:
            raise SettingError(f"`k` must be from 1 to {most} for this kernel; got {k}. Ask for fewer eigenvalues.")
        found = _by_products(own, its, k, rng) if own.matrix is None else _by_matrix(own, its, k, rng, whole)
        if targets is None:
            return found
        product, gram = (targets * own.times(targets)).sum(), torch.einsum("bmq,bmr->qr", targets, targets)
        return found._replace(alignment=float(product) / (found.norm * _length(gram)))


@without_autocast()
def distance(k_1: Tensor, k_2: Tensor) -> float:
    """1 - <K_1, K_2> / (|K_1|_F |K_2|_F): 0 for kernels that differ by a factor, 1 for those with nothing in common.

    As in Fort et al., Deep learning versus kernel learning, 2020. Exact in float64, to the last digits near 0 too, with
    one part of the kernels in that precision at a time.

    Args:
        k_1: (n1, n2, C, C), (n1, n2) or (n1, n2, C).
        k_2: The same shape.

    Raises:
        ValueError: Kernels of different shapes, zero or not finite.
    """
    k_1, k_2 = tensor("k_1", k_1), tensor("k_2", k_2)
    _same_shape(("k_1", "k_2"), k_1, k_2)
    long = [_nonzero_length(name, part) for name, part in (("k_1", k_1), ("k_2", k_2))]
    # half the square of the difference between unit vectors: 1 - cos would lose half of the digits
    return sum(float(((a / long[0] - b / long[1]) ** 2).sum()) for a, b in _parts(k_1, k_2)) / 2


@without_autocast()
def drift(k_t: Tensor, k_0: Tensor) -> float:
    """|K_t - K_0|_F / |K_0|_F: how far training has moved a kernel; computed like `distance`.

    Args:
        k_t: (n1, n2, C, C), (n1, n2) or (n1, n2, C).
        k_0: The same shape.

    Raises:
        ValueError: Kernels of different shapes, k_0 zero, or one that is not finite.
    """
    k_t, k_0 = tensor("k_t", k_t), tensor("k_0", k_0)
    _same_shape(("k_t", "k_0"), k_t, k_0)
    _finite_length("k_t", k_t)
    start = _nonzero_length("k_0", k_0)
    return math.sqrt(sum(float(((a - b) ** 2).sum()) for a, b in _parts(k_t, k_0))) / start


def largest_eigenvalue(times: Callable[[Tensor], Tensor], like: Tensor, real: Tensor, products: int = 12) -> Tensor:
    """An upper estimate of the largest eigenvalue of a positive semi-definite operator, by Lanczos' method.

    The largest Ritz value plus its residual (Zhou and Li, Bounding the spectrum of large Hermitian matrices, 2011): for
    a tangent kernel, whose leading eigenvalues stand apart, it agrees with the eigenvalue to a few digits.

    Args:
        times: The operator on (..., N, C).
        like: A tensor of that shape, for device and dtype.
        real: Which rows take part, (..., N).
        products: With the operator.

    Returns:
        (...), infinite where the operator is not finite.
    """
    mask = real[..., None]
    products = min(products, like.shape[-2] * like.shape[-1])
    # any fixed vector in general position will do
    v = torch.cos(torch.arange(like.shape[-2] * like.shape[-1], dtype=like.dtype, device=like.device) ** 2)
    v = torch.where(mask, v.reshape(like.shape[-2:]).expand_as(like), 0)
    v = v / _norm(v)
    basis, diagonal, off = [v], [], []
    largest = torch.zeros_like(v[..., :1, :1])
    for _ in repeated(range(products)):
        u = torch.where(mask, times(basis[-1]), 0)
        largest = torch.maximum(largest, _norm(u))
        diagonal.append((u * basis[-1]).sum((-2, -1)))
        for _twice in range(2):  # against all of the basis, twice: rounding would make it forget the first ones
            for b in basis:
                u = u - (u * b).sum((-2, -1), keepdim=True) * b
        length = _norm(u)
        more = length > 8 * torch.finfo(like.dtype).eps * largest  # else what is left is rounding, and this is all
        off.append(torch.where(more, length, 0)[..., 0, 0])
        basis.append(torch.where(more, u / length, 0))
    tridiagonal = torch.diag_embed(torch.stack(diagonal, -1))
    if products > 1:
        beside = torch.diag_embed(torch.stack(off[:-1], -1), offset=1)
        tridiagonal = tridiagonal + beside + beside.mT
    finite = torch.isfinite(tridiagonal).all(-1).all(-1)
    values, vectors = torch.linalg.eigh(torch.where(finite[..., None, None], tridiagonal, 0))
    bound: Tensor = values[..., -1] + off[-1] * vectors[..., -1, -1].abs()
    return torch.where(finite, bound, torch.inf)


def _by_matrix(own: Symmetric, its: Symmetric | None, k: int, rng: np.random.Generator, whole: bool) -> Spectrum:
    """The spectrum of a matrix: from all of its eigenvalues, or from the largest."""
    assert own.matrix is not None
    condition = None
    if whole:
        matrix = own.matrix.to(torch.float64)
        values = torch.linalg.eigvalsh((matrix + matrix.mT) / 2).flatten().sort(descending=True).values.cpu()
        if values[-1] < -1e-3 * values[0].abs():
            raise SettingError(
                f"`kernel` must be positive semi-definite; got an eigenvalue of {float(values[-1]):.3g}. "
                "Take it of samples with themselves."
            )
        rounding = own.size * torch.finfo(own.like.dtype).eps * values[0]
        condition = float(values[0] / values[-1]) if values[-1] > rounding else math.inf
    else:
        values = _largest(own, k, rng)[0]
    return Spectrum(
        eigenvalues=values[:k].clamp(min=0),
        size=own.size,
        trace=float(own.matrix.diagonal(dim1=-2, dim2=-1).sum(dtype=torch.float64)),
        norm=_length(own.matrix),
        trace_error=0.0,
        norm_error=0.0,
        condition=condition,
        alignment=None,
        distance=None if its is None or its.matrix is None else distance(own.matrix, its.matrix),
    )


def _by_products(own: Symmetric, its: Symmetric | None, k: int, rng: np.random.Generator) -> Spectrum:
    """The spectrum of an operator: Lanczos' method, and random signs for what is orthogonal to its eigenvectors."""
    values, vectors = _largest(own, k, rng)
    signs = own.columns(rng.choice([-1.0, 1.0], (own.size, _PROBES)))
    probes = signs - vectors @ (vectors.mT @ signs)
    products = own.times(probes)
    traces, squares = (probes * products).sum((0, 1)), (products**2).sum((0, 1))
    norm = math.sqrt(float((values**2).sum()) + float(squares.mean()))
    apart = None
    if its is not None:
        # K K'^T has its trace in these columns, as K K^T and K' K'^T have
        columns = torch.cat([vectors, probes / math.sqrt(_PROBES)], -1)
        apart = distance(own.times(columns), its.times(columns))
    return Spectrum(
        eigenvalues=values.clamp(min=0),
        size=own.size,
        trace=float(values.sum()) + float(traces.mean()),
        norm=norm,
        trace_error=float(traces.std()) / math.sqrt(_PROBES),
        norm_error=float(squares.std()) / math.sqrt(_PROBES) / (2 * norm),
        condition=None,
        alignment=None,
        distance=apart,
    )


def _largest(own: Symmetric, k: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """The k largest eigenvalues (k,), the largest first, and their eigenvectors (blocks, rows, k)."""
    from scipy.sparse.linalg import LinearOperator, eigsh  # takes long to import

    def times(v: np.ndarray) -> np.ndarray:
        product: np.ndarray = own.times(own.columns(v)).flatten().cpu().numpy()
        return product

    values, vectors = eigsh(
        LinearOperator((own.size, own.size), matvec=times, dtype=np.float64),
        k,
        which="LA",
        v0=rng.standard_normal(own.size),
        tol=torch.finfo(own.like.dtype).eps ** 0.75,  # near what products in that precision can give
    )
    order = np.argsort(-values)
    return torch.from_numpy(values[order]), own.columns(vectors[:, order])


def _length(part: Tensor) -> float:
    return math.sqrt(sum(float((rows**2).sum()) for rows in _float64(part)))


def _finite_length(name: str, kernel: Tensor) -> float:
    length = _length(kernel)
    if not math.isfinite(length):
        raise SettingError(f"`{name}` must be finite; got numbers that are not. Look at the weights and the inputs.")
    return length


def _nonzero_length(name: str, kernel: Tensor) -> float:
    length = _finite_length(name, kernel)
    if not length:
        raise SettingError(f"`{name}` must not be zero; got zeros only. Compare other kernels.")
    return length


def _float64(kernel: Tensor) -> Iterator[Tensor]:
    """A kernel in float64, some rows at a time."""
    kernel = kernel.detach().squeeze(0)
    yield from (rows.to(torch.float64) for rows in torch.split(kernel, max(1, _CHUNK // max(1, kernel[0].numel()))))


def _parts(a: Tensor, b: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Two kernels in float64, some rows at a time."""
    yield from ((own, its.to(own.device)) for own, its in zip(_float64(a), _float64(b), strict=True))


def _same_shape(names: tuple[str, str], a: Tensor, b: Tensor) -> None:
    for name, part in zip(names, (a, b), strict=True):
        if part.is_complex():
            raise SettingError(f"`{name}` must hold real numbers; got {part.dtype}. Take its real part.")
    if a.shape != b.shape:
        raise SettingError(
            f"`{names[0]}` and `{names[1]}` must have one shape; got {tuple(a.shape)} and {tuple(b.shape)}. "
            "Take both on the same samples, in one way."
        )


def _norm(v: Tensor) -> Tensor:
    return (v**2).sum((-2, -1), keepdim=True).sqrt().clamp(min=_TINY)
