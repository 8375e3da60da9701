"""The Gaussian posterior in the tangent space: a Gaussian process whose kernel is the tangent kernel.

f_lin(x; w) = f_0(x) + J (w - w_0) with w - w_0 ~ N(0, prior) and y = f_lin + N(0, noise): with lambda = noise / prior,

    mean        f*_0 - K* alpha,  alpha = (K + lambda)^-1 (f_0 - y)
    covariance  prior (K** - K* (K + lambda)^-1 K*^T)
    log p(y) = -1/2 (r^T (K + lambda)^-1 r / prior + log det(prior (K + lambda)) + n C log 2 pi),  r = y - f_0

(Rasmussen and Williams, Gaussian processes for machine learning, 2006, equations 2.22 to 2.30). The covariance is that
of the linearised Laplace approximation with the full Gauss-Newton matrix, J* (J^T J / noise + 1 / prior)^-1 J*^T
(Immer, Korzepa, Bauer, Improving predictions of Bayesian neural nets via local linearization, 2021).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedtangent.errors import SettingError
from fedtangent.tangents.autocast import without_autocast
from fedtangent.tangents.capture.functional import Weights
from fedtangent.tangents.capture.samples import tensor
from fedtangent.tangents.dual import fitting, predicted
from fedtangent.tangents.dual import weights as weights_of
from fedtangent.tangents.evolve_input import check_data, symmetric
from fedtangent.tangents.jacobian import Jacobian
from fedtangent.tangents.numerics.modes import Modes, modes
from fedtangent.tangents.single import numbers
from fedtangent.training import losses

# Numbers of K* in the eigenvectors' basis at a time.
_CHUNK = 2**22


@dataclass(frozen=True)
class Posterior:
    """The posterior for T pairs of noise and prior; made by `posterior`.

    Attributes:
        noise: Variances of the noise of a target, (T,).
        prior: Variances of a weight around w_0, (T,).
        alpha: The dual state of the mean, (T, n, C): w = w_0 - J^T alpha.
        log_marginal: log p(y), natural, (T,), float64.
    """

    noise: tuple[float, ...]
    prior: tuple[float, ...]
    alpha: Tensor
    log_marginal: Tensor
    _modes: Modes

    @property
    def best(self) -> int:
        """The place of the pair under which the targets are likeliest: type II maximum likelihood."""
        return int(self.log_marginal.argmax())

    @without_autocast()
    def mean(self, kernel_test_train: Tensor, f_0_test: Tensor) -> Tensor:
        """f*_0 - K* alpha, (T, n*, C).

        Args:
            kernel_test_train: K* of the kind of the kernel, (n*, n, C, C), (n*, n) or (n*, n, C).
            f_0_test: The network's outputs on the test points, (n*, C).

        Raises:
            ValueError: Shapes that do not fit.
        """
        return predicted(self.alpha, kernel_test_train, f_0_test)

    @without_autocast()
    def covariance(self, kernel_test_train: Tensor, kernel_own: Tensor) -> Tensor:
        """Of the outputs of each test point, (T, n*, C, C), without the noise; 2 rows^2 n* C operations and more.

        Args:
            kernel_test_train: K* of the kind of the kernel, (n*, n, C, C), (n*, n) or (n*, n, C).
            kernel_own: Of each test point with itself, as `own_kernel` gives it, (n*, C, C), (n*,) or (n*, C).

        Raises:
            ValueError: Shapes that do not fit.
        """
        n, outputs = self.alpha.shape[1:]
        k = fitting(self.alpha, kernel_test_train)
        own = tensor("kernel_own", kernel_own)
        full, blocks, rows = k.dim() == 4, *self._modes.values.shape
        kind = 4 if rows == n * outputs and outputs > 1 else 3 if blocks > 1 else 2
        if outputs > 1 and k.dim() != kind:
            raise SettingError(
                f"`kernel_test_train` must be of the kernel's kind, with {kind} axes; got {tuple(k.shape)}. "
                "Take both with one kind."
            )
        shape = (len(k), *k.shape[2:])
        if tuple(own.shape) != shape:
            raise SettingError(
                f"`kernel_own` must be {shape}; got {tuple(own.shape)}. Take own_kernel of the test points."
            )
        own = own.to(self._modes.values)
        size = max(1, _CHUNK // (n * outputs**2))
        parts = zip(torch.split(k, size), torch.split(own, size), strict=True)
        found = [self._covariance(*part) for part in parts]
        whole = torch.cat(found, 1)
        return whole if full else torch.diag_embed(whole.expand(*whole.shape[:2], outputs))

    @without_autocast()
    def variance(self, kernel_test_train: Tensor, kernel_own: Tensor) -> Tensor:
        """Of every output of each test point, (T, n*, C), without the noise; arguments as those of `covariance`.

        Raises:
            ValueError: Shapes that do not fit.
        """
        return self.covariance(kernel_test_train, kernel_own).diagonal(dim1=2, dim2=3)

    @without_autocast()
    def weights(self, jacobian: Jacobian) -> Weights:
        """The mean of the weights, w_0 - J^T alpha: a tree like w_0 with a leading axis T. A product with J^T each.

        Args:
            jacobian: J on the training points, at w_0.

        Raises:
            ValueError: A Jacobian of other shape than alpha.
        """
        return weights_of(self.alpha, jacobian)

    def _covariance(self, k: Tensor, own: Tensor) -> Tensor:
        """Of some test points: (T, n*, C, C) of the full kernel, else (T, n*, 1 or C)."""
        values, vectors = self._modes
        k = k.to(values)
        if k.dim() == 4:
            m, n, c, _ = k.shape
            parts = vectors[0].mT @ k.permute(1, 3, 0, 2).reshape(n * c, m * c)  # rows (n, d), columns (m, c)
            parts = parts.reshape(-1, m, c)
            seen = [torch.einsum("rmc,rmd->mcd", parts / gain[0][:, None, None], parts) for gain in self._gains(values)]
        else:
            columns = k.mT[None] if k.dim() == 2 else k.permute(2, 1, 0)
            squares = (vectors.mT @ columns) ** 2  # (blocks, rows, m)
            seen = [(squares / gain[..., None]).sum(1).mT for gain in self._gains(values)]
            own = own[:, None] if own.dim() == 1 else own
        prior = torch.tensor(self.prior, dtype=values.dtype, device=values.device)
        return prior.reshape(-1, *[1] * own.dim()) * (own - torch.stack(seen))

    def _gains(self, values: Tensor) -> list[Tensor]:
        return [values + noise / prior for noise, prior in zip(self.noise, self.prior, strict=True)]


@without_autocast()
def posterior(
    kernel: Tensor,
    f_0: Tensor,
    y: Tensor,
    noise: float | Sequence[float],
    prior: float | Sequence[float] = 1.0,
) -> Posterior:
    """The posterior of the linearised network, for a whole path of noises and priors from one eigendecomposition.

    9 rows^3 operations in float64, for a matrix of rows = n C (full) or n (trace, and diagonal for every output); each
    pair of the path costs products with n C numbers only. Where kernel and outputs are taken at trained weights the
    covariance is that of the linearised Laplace approximation. The trace kernel is the Gaussian process whose outputs
    are independent and alike. For kernels that do not fit in memory see `solve`.

    Args:
        kernel: J J^T on the training points: (n, n, C, C) full, (n, n) trace or (n, n, C) diagonal.
        f_0: The network's outputs on them, (n, C): the mean of the prior.
        y: Targets (n, C), or labels (n,), which are taken as one-hot rows.
        noise: Variance of the noise of a target, one or several.
        prior: Variance of every weight around w_0, one or as many as there are noises. In laplace-torch's words
            noise = sigma_noise^2 and prior = 1 / prior_precision.

    Raises:
        TypeError: A kernel that is no tensor.
        ValueError: Shapes that do not fit; a kernel that is zero, not symmetric or not semi-definite; values that are
            not finite; variances that are not positive, or of different numbers.

    Example:
        >>> kernel, f_0, y = torch.tensor([[3.0]]), torch.tensor([[0.0]]), torch.tensor([[1.0]])
        >>> found = posterior(kernel, f_0, y, noise=[1.0, 3.0])
        >>> found.mean(kernel, f_0).flatten().tolist()
        [0.75, 0.5]
        >>> found.variance(kernel, kernel[0]).flatten().tolist(), found.best
        ([0.75, 1.5], 0)
    """
    noises, priors = _variances("noise", noise), _variances("prior", prior)
    if len(priors) not in (1, len(noises)) and len(noises) != 1:
        raise SettingError(
            f"`prior` must be one variance, or one for each of {len(noises)} noises; got {len(priors)}. Match them."
        )
    count = max(len(noises), len(priors))
    noises, priors = noises * (count // len(noises)), priors * (count // len(priors))
    f_0, y = tensor("f_0", f_0).detach(), tensor("y", y).detach()
    check_data(f_0, y, losses.squared)
    with torch.no_grad():
        own = symmetric(tensor("kernel", kernel), f_0)
        assert own.matrix is not None
        double = f_0.to(torch.float64)
        its = modes(own.matrix.to(torch.float64))
        y = y.to(double) if y.is_floating_point() else torch.nn.functional.one_hot(y.long(), f_0.shape[1]).to(double)
        r = y - double
        parts = its.vectors.mT @ (r.mT[..., None] if own.blocks > 1 else r.reshape(1, own.rows, -1))
        alphas, marginals = [], []
        for sigma, scale in zip(noises, priors, strict=True):
            gain = its.values + sigma / scale
            weighted = parts / gain[..., None]
            alpha = -(its.vectors @ weighted)
            alphas.append(alpha[..., 0].mT if own.blocks > 1 else alpha.reshape(f_0.shape))
            spread = (scale * gain).log().sum() * parts.shape[-1]
            fit = (parts * weighted).sum() / scale
            marginals.append(-0.5 * (fit + spread + r.numel() * math.log(2 * math.pi)))
        return Posterior(noises, priors, torch.stack(alphas).to(f_0), torch.stack(marginals), its)


def _variances(name: str, given: float | Sequence[float]) -> tuple[float, ...]:
    found = numbers(name, given)
    if not found or not all(0 < one < math.inf for one in found):
        raise SettingError(f"`{name}` must be positive and finite; got {found}. Give a variance such as 0.01.")
    return tuple(found)
