"""What depends on a model's parameters is followed through everything that a forward pass may do with it."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fedtangent.tangents.capture.dependence import Dependence

P, X = torch.tensor([1.5, -0.5, 2.5]), torch.tensor([0.3, 0.7, -0.2])


def written(z: Tensor, write: Callable[[Tensor], object]) -> Tensor:
    z = z.clone()
    write(z)
    return z


def base_of_a_view(p: Tensor, x: Tensor) -> Tensor:
    z = torch.zeros(2, 3)
    z[1].copy_(x * p)
    return z


DEPENDS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "itself": lambda p, x: p,
    "product": lambda p, x: p * x,
    "complex": lambda p, x: torch.fft.rfft(p).abs(),
    "integer": lambda p, x: x[p.argmax()],
    "boolean": lambda p, x: x * (p > 0),
    "in place": lambda p, x: written(x, lambda z: z.mul_(p)),
    "out": lambda p, x: written(x, lambda z: torch.add(p, 1, out=z)),
    "part of it": lambda p, x: written(x, lambda z: z.__setitem__(0, p[1])),
    "base of a view": base_of_a_view,
    "view": lambda p, x: base_of_a_view(p, x)[0],
    "number": lambda p, x: x * float(p[0]),
    "branch": lambda p, x: x + 1 if p[0] > 0 else x - 1,
    "length": lambda p, x: x * len(p[p > 0]),
    "list": lambda p, x: x * p.tolist()[0],
}
DOES_NOT: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "data": lambda p, x: torch.fft.fft(x).real.cumsum(0),
    "shape": lambda p, x: x * len(p) + p.shape[0] * p.dim(),
    "branch of the data": lambda p, x: x if x[0] > 0 else -x,
    "before": lambda p, x: (x * 2, p * x)[0],
}


@pytest.mark.parametrize("name", DEPENDS)
def test_what_depends(name: str) -> None:
    assert followed(DEPENDS[name])


@pytest.mark.parametrize("name", DOES_NOT)
def test_what_does_not(name: str) -> None:
    assert not followed(DOES_NOT[name])


def followed(function: Callable[[Tensor, Tensor], Tensor]) -> bool:
    dependence = Dependence([P])
    with torch.no_grad(), dependence:
        found = function(P, X)
        if function is DEPENDS["list"]:
            dependence.read([P])  # as the recorder of uses says, for no operator shows it
    return dependence.of([found])
