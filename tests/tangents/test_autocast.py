"""Autocast around a call changes nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fedtangent import losses, tangents

X, TEST = (torch.randn(n, 6, generator=torch.Generator().manual_seed(n)) for n in (5, 4))
Y = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([0, 1, 2, 0, 1])


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 3))


MODEL = network()
K, J, F_0 = tangents.kernel(MODEL, X), tangents.jacobian(MODEL, X), MODEL(X).detach()
K_TEST, OWN, F_TEST = tangents.kernel(MODEL, TEST, X), tangents.own_kernel(MODEL, TEST), MODEL(TEST).detach()
W = {name: part.detach() + 0.1 for name, part in MODEL.named_parameters()}
POSTERIOR = tangents.posterior(K, F_0, Y, noise=0.1)
EVOLUTION = tangents.evolve(K, F_0, Y, [1, 5], lr=0.1)
LINEAR = tangents.linearize(MODEL)
POINTS = {"u": (tangents.pinn.identity, X)}


def flat(tree: dict[str, Tensor]) -> Tensor:
    return torch.cat([part.flatten() for part in tree.values()])


@pytest.mark.parametrize(
    "take",
    [
        lambda: tangents.kernel(MODEL, X),
        lambda: tangents.own_kernel(MODEL, X),
        lambda: sum(tangents.layer_kernels(MODEL, X).values()),
        lambda: tangents.checkpoint_kernels(MODEL, [MODEL.state_dict(), W], X, y=Y).cka,
        lambda: tangents.sketch(MODEL, X, 4),
        lambda: tangents.pinn.kernel(nn.Sequential(MODEL, nn.Linear(3, 1).requires_grad_(False)), POINTS).matrix.sum(),
        lambda: J.jvp(W),
        lambda: flat(J.vjp(Y)),
        lambda: J.times(Y),
        lambda: J.dense(),
        lambda: LINEAR(W, X),
        lambda: torch.tensor(LINEAR.gap(W, X).relative),
        lambda: tangents.spectrum(K, 3, y=Y).eigenvalues,
        lambda: tangents.posterior(K, F_0, Y, noise=0.1).alpha,
        lambda: POSTERIOR.mean(K_TEST, F_TEST),
        lambda: POSTERIOR.variance(K_TEST, OWN),
        lambda: flat(POSTERIOR.weights(J)),
        lambda: tangents.solve(J, F_0 - Y, ridge=0.1).alpha,
        lambda: tangents.evolve(K, F_0, Y, [1, 5], lr=0.1).alpha,
        lambda: tangents.evolve(K, F_0, LABELS, [1, 5], lr=0.1, loss=losses.cross_entropy, clock="descent").alpha,
        lambda: EVOLUTION.predict(K_TEST, F_TEST),
        lambda: flat(EVOLUTION.weights(J)),
    ],
)
def test_autocast_around_a_call_changes_nothing(take: Callable[[], Tensor]) -> None:
    torch.manual_seed(3)
    alone = take()
    torch.manual_seed(3)
    with torch.autocast("cpu", torch.bfloat16):
        inside = take()
    assert inside.dtype == alone.dtype
    torch.testing.assert_close(inside, alone, rtol=1e-6, atol=1e-7)
