"""Gradients some rows at a time are those of automatic differentiation at once."""

import torch
from torch import Tensor, nn

from fedtangent.tangents.capture.in_rows import graph


class Both(nn.Module):
    """A convolution and a linear map that are cut, and one that is used in another way too."""

    def __init__(self) -> None:
        super().__init__()
        self.lower, self.upper, self.other = nn.Conv2d(2, 5, 3), nn.Linear(20, 7), nn.Linear(7, 7, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        z = torch.tanh(self.upper(torch.tanh(self.lower(x)).flatten(1)))
        return self.other(z) + z @ self.other.weight


def test_rows_and_whole_gradients() -> None:
    torch.manual_seed(0)
    model, x, alpha = Both().double(), torch.randn(3, 2, 4, 4).double(), torch.randn(3, 7).double()
    w = {name: part.detach() for name, part in model.named_parameters()}
    f = model(x)
    whole = dict(zip(w, torch.autograd.grad(f, list(model.parameters()), alpha), strict=True))
    with graph(model, w, x, alpha, 40) as its:
        assert torch.allclose(its.together, f, rtol=1e-12)
        for name in ("lower.weight", "upper.weight"):
            rows = its.rows(name)
            assert len(rows) > 2
            found = torch.cat([its.gradient_of_rows(name, number) for number in range(len(rows))])
            assert torch.allclose(found, whole[name].flatten(1), rtol=1e-10)
        for name, gradient in zip(w, its.gradients([*w]), strict=True):
            assert gradient is not None
            assert torch.allclose(gradient, whole[name], rtol=1e-10)
