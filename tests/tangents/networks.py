"""Small networks in general position, and the explicit Jacobian that the factors must equal."""

import torch
from torch import Tensor, nn

INPUTS, OUTPUTS, SAMPLES = 7, 3, 5


class Mixed(nn.Module):
    """No Sequential, so that nothing is known of what follows a layer; a softmax mixes its units."""

    def __init__(self) -> None:
        super().__init__()
        self.lower, self.upper = nn.Linear(INPUTS, 4), nn.Linear(4, OUTPUTS, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.upper(torch.softmax(self.lower(x), 1)))


def networks() -> dict[str, nn.Module]:
    torch.manual_seed(3)
    found = {
        "one layer": nn.Linear(INPUTS, OUTPUTS),
        "gated": nn.Sequential(nn.Linear(INPUTS, 6), nn.ReLU(), nn.Linear(6, OUTPUTS)),
        "no bias": nn.Sequential(nn.Linear(INPUTS, 6, bias=False), nn.Tanh(), nn.Linear(6, OUTPUTS, bias=False)),
        "deep": nn.Sequential(
            nn.Sequential(nn.Linear(INPUTS, 6), nn.GELU()), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, OUTPUTS)
        ),
        "one output": nn.Sequential(nn.Linear(INPUTS, 6), nn.ELU(), nn.Linear(6, 4), nn.SiLU(), nn.Linear(4, 1)),
        "layer norm between": nn.Sequential(
            nn.Linear(INPUTS, 6), nn.LayerNorm(6, elementwise_affine=False), nn.ReLU(), nn.Linear(6, OUTPUTS)
        ),
        "softmax at the end": nn.Sequential(nn.Linear(INPUTS, 6), nn.ReLU(), nn.Linear(6, OUTPUTS), nn.Softmax(1)),
        "wide": nn.Sequential(nn.Linear(INPUTS, 60), nn.ReLU(), nn.Linear(60, OUTPUTS)),
        "own module": Mixed(),
    }
    return {name: model.double() for name, model in found.items()}


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in model.named_parameters()}


def inputs(samples: int = SAMPLES, seed: int = 0) -> Tensor:
    return torch.randn(samples, INPUTS, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def jacobian(model: nn.Module, x: Tensor) -> Tensor:
    """J (N, C, P), by the definition."""
    w = weights(model)
    one = torch.func.jacrev(lambda w, row: torch.func.functional_call(model, w, (row[None],))[0])
    by_weight = torch.func.vmap(one, in_dims=(None, 0))(w, x)
    return torch.cat([by_weight[name].flatten(2) for name in w], 2)


def flat(w: dict[str, Tensor]) -> Tensor:
    """A tree of weights with a leading axis as a matrix, in the order of `jacobian`."""
    return torch.cat([part.flatten(1) for part in w.values()], 1)
