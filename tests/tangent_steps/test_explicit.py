"""The Jacobian written out, and products with it, equal those of automatic differentiation on every kind of layer."""

import pytest
import torch

from fedtangent.tangent_steps import explicit
from fedtangent.tangents.capture.factors import factors
from fedtangent.tangents.capture.verified_uses import uses
from tests.tangents.networks import Example, everything, flat, jacobian, weights

EXAMPLES = everything()


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and bool((a - b).norm() <= 1e-10 * b.norm())


@pytest.mark.few(8)
@pytest.mark.parametrize("name", EXAMPLES)
def test_it_is_the_jacobian_and_multiplies_like_it(name: str) -> None:
    example: Example = EXAMPLES[name]
    model, x = example.model, example.samples(4)
    w = weights(model)
    found = uses(model, w, x)
    f, its = factors(model, w, x, found)
    written, j = explicit.explicit(found, its, w, 4), jacobian(model, x)
    assert list(written) == list(w)
    assert close(torch.cat([leaf.reshape(*leaf.shape[:2], -1) for leaf in written.values()], 2), j)
    alpha = torch.randn(2, *f.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    v = torch.einsum("tnc,ncp->tp", alpha, j)
    assert close(flat(explicit.pullback(written, alpha)), v)
    assert close(explicit.pushforward(written, explicit.pullback(written, alpha)), torch.einsum("tp,ncp->tnc", v, j))
    assert close(explicit.kernel_of_jacobian("full", written).times(alpha[0]), torch.einsum("p,ncp->nc", v[0], j))
    kernel = torch.einsum("ncp,mcp->nm", j, j) / f.shape[1]
    assert close(explicit.kernel_of_jacobian("trace", written).times(alpha[0]), kernel @ alpha[0])


def test_one_that_is_too_large_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    model = torch.nn.Linear(3, 2).double()
    w, x = weights(model), torch.ones(5, 3).double()
    found = uses(model, w, x)
    its = factors(model, w, x, found)[1]
    monkeypatch.setattr(explicit, "LARGEST", 79)  # 5 samples, 2 outputs, 8 parameters
    with pytest.raises(
        ValueError,
        match=r"^`exchange` must be 'factors' where a Jacobian of more than 79 numbers would be compressed; "
        r"got 'jacobian' with 80. Compress the factors, or take fewer rows\.$",
    ):
        explicit.explicit(found, its, w, 5)
