"""The losses of combinations of directions are those of the models that they make."""

import pytest
import torch
from torch import nn

from fedtangent.shard import Shard
from fedtangent.tangent_steps import of_task, slices
from fedtangent.tangent_steps.combined import score_of
from fedtangent.tangent_steps.span import candidates
from fedtangent.training.task import Task
from tests.tangents.networks import inputs

N, T, K = 9, 4, 3
MODELS = {
    "linear": lambda: nn.Sequential(nn.Linear(7, 5)),
    "hidden": lambda: nn.Sequential(nn.Linear(7, 6), nn.Tanh(), nn.Linear(6, 5)),
    "deep, without biases": lambda: nn.Sequential(
        nn.Linear(7, 6, bias=False), nn.ELU(), nn.Linear(6, 4), nn.Sigmoid(), nn.Linear(4, 5, bias=False)
    ),
    "no chain": lambda: nn.Sequential(nn.Linear(7, 6), nn.LayerNorm(6), nn.Linear(6, 5)),
}


@pytest.mark.parametrize("rows", [N, 0])
@pytest.mark.parametrize("name", MODELS)
def test_the_losses_are_those_of_the_models(name: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(7)
    task = Task(MODELS[name]().double(), example=inputs(3))
    w, generator = task.w_0, torch.Generator().manual_seed(2)
    basis = {key: torch.randn(K, *part.shape, generator=generator, dtype=torch.float64) for key, part in w.items()}
    c = torch.randn(T, K, generator=generator, dtype=torch.float64)
    x, y = inputs(N)[:rows], torch.arange(rows) % 5
    real = torch.arange(rows) % 4 != 1
    of_task.uses(task, w, inputs(3))
    x = torch.where(real[:, None], x, torch.nan)  # padding may hold anything
    found = score_of(task, w, basis, c, Shard(x, y, real))
    for t, total in enumerate(found.total):
        one = {key: part[t] for key, part in candidates(w, basis, c).items()}
        by_hand = task.loss.per_sample(task.predict(one, x), y)[real].sum()
        assert torch.allclose(total, by_hand, rtol=1e-12)
    assert int(found.rows) == int(real.sum())
    monkeypatch.setattr(slices, "MEMORY", 1)  # a row at a time
    assert torch.allclose(score_of(task, w, basis, c, Shard(x, y, real)).total, found.total, rtol=1e-12)
