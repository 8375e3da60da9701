"""Kernels at checkpoints, and what they have in common, equal their definitions."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from fedtangent.tangents import checkpoint_kernels, distance, kernel, matrix, spectrum
from tests.tangents.networks import INPUTS, OUTPUTS, inputs

N = 6


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(INPUTS, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, OUTPUTS)).double().eval()


def states(model: nn.Module) -> list[dict[str, Tensor]]:
    def draw(seed: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        state = {name: part.clone() for name, part in model.state_dict().items()}
        for part in state.values():
            if part.is_floating_point():
                part += torch.rand(part.shape, dtype=part.dtype, generator=generator) * seed
        return state

    return [draw(seed) for seed in range(3)]


def cosine(a: Tensor, b: Tensor) -> float:
    return float((a * b).sum() / (a.norm() * b.norm()))


@pytest.mark.parametrize("kind", ["full", "trace", "diagonal"])
def test_they_are_as_defined(kind: Any) -> None:
    model, x = network(), inputs(N)
    y = torch.randn(N, OUTPUTS, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    found = checkpoint_kernels(model, iter(states(model)), x, y=y, kind=kind, keep=True)
    assert found.kernels is not None and found.alignment is not None
    h = torch.eye(N).double() - 1 / N
    ks = []
    for t, state in enumerate(states(model)):
        other = network()
        other.load_state_dict(state)
        ks.append(kernel(other, x, kind=kind))
        assert torch.equal(found.kernels[t], ks[-1])
        assert torch.allclose(found.size[t], ks[-1].norm())
    hs = [torch.einsum("an,nm...,mb->ab...", h, k, h) for k in ks]
    for s in range(3):
        for t in range(3):
            assert float(found.distance[s, t]) == pytest.approx(distance(ks[s], ks[t]), abs=1e-13)
            assert float(found.cka[s, t]) == pytest.approx(cosine(hs[s], hs[t]), abs=1e-12)
    centred = h @ y
    for t, k in enumerate(hs):
        if kind == "full":
            right = cosine(matrix(k), centred.reshape(-1, 1) @ centred.reshape(1, -1))
        elif kind == "trace":
            right = cosine(k, centred @ centred.T)
        else:
            blocks = torch.block_diag(*k.unbind(2))
            right = cosine(blocks, centred.T.reshape(-1, 1) @ centred.T.reshape(1, -1))
        assert float(found.alignment[t]) == pytest.approx(right, abs=1e-12)


def test_files_parameters_and_the_model_itself(tmp_path: Path) -> None:
    model, x = network(), inputs(N)
    before = {name: part.clone() for name, part in model.state_dict().items()}
    state = states(model)[2]
    save_file(state, tmp_path / "two.safetensors")
    twice = {"3.weight": 2 * model[3].weight.detach()}  # type: ignore[index]
    found = checkpoint_kernels(model, [{}, twice, state, tmp_path / "two.safetensors"], x, kind="full")
    assert float(found.distance[2, 3]) == 0 and float(found.distance[0, 1]) > 1e-3
    assert found.kernels is None and found.alignment is None
    assert torch.allclose(found.size[0], kernel(model, x).norm())
    assert all(torch.equal(part, before[name]) for name, part in model.state_dict().items())


def test_labels_and_a_kernel_that_has_found_them() -> None:
    """y y^T itself is aligned, and alike under a factor and a constant."""
    model, x = nn.Linear(2, 2, bias=True).double(), torch.tensor([[1.0, 0], [1, 0], [-1, 0], [-1, 0]]).double()
    found = checkpoint_kernels(model, [{}], x, y=torch.tensor([0, 0, 1, 1]))
    assert found.alignment is not None and float(found.alignment[0]) == pytest.approx(1, abs=1e-12)
    uncentred = spectrum(kernel(model, x, kind="trace"), 1, y=torch.tensor([0, 0, 1, 1])).alignment
    assert uncentred is not None and uncentred < 0.8


def nothing() -> Iterator[Any]:
    yield from ()


@pytest.mark.parametrize(
    ("checkpoints", "error", "message"),
    [
        (nothing(), ValueError, "`checkpoints` must hold weights; got none. "),
        (
            {"3.bias": torch.ones(3)},
            TypeError,
            "`checkpoints` must be several, such as a list of state dicts; got dict. ",
        ),
        ("none", TypeError, "`checkpoints` must be several, such as a list of state dicts; got str. "),
        (3, TypeError, "`checkpoints` must be several, such as a list of state dicts; got int. "),
        ([3], TypeError, "`checkpoints` must hold dicts of tensors or paths; got int at place 0. "),
        ([{}, {"a": torch.ones(2)}], ValueError, "the model's names and shapes; got 'a' (2,) at place 1. "),
        ([{"3.bias": 2.0}], ValueError, "the model's names and shapes; got '3.bias' float at place 0. "),
        (["none"], ValueError, "`checkpoints` must be readable files of safetensors; got 'none': "),
    ],
)
def test_checkpoints_that_are_none(checkpoints: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as found:
        checkpoint_kernels(network(), checkpoints, inputs(N))
    assert message in str(found.value)


def test_kernels_that_tell_nothing() -> None:
    with pytest.raises(ValueError, match="`checkpoints` must have kernels that are not zero or constant over samples"):
        checkpoint_kernels(network(), [{}], inputs(1).expand(3, INPUTS))
    with pytest.raises(ValueError, match=r"`y` must be \(6,\) labels or "):
        checkpoint_kernels(network(), [{}], inputs(N), y=torch.zeros(4, 3))
