"""Batch norm against torch's own, and its statistics against those of all rows."""

import pytest
import torch
from torch import Tensor, nn

from fedtangent import trees
from fedtangent.intercept import Intercept
from fedtangent.training import batch_norm
from fedtangent.training.batch_norm import BatchNorm

REAL = torch.tensor([True, False, True, True, False, True])
SHAPES = [(6, 3), (6, 3, 5), (6, 3, 4, 5)]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pair(shape: tuple[int, ...]) -> tuple[BatchNorm, nn.Module]:
    """Ours and torch's, in general position."""
    theirs = (nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d)(shape[1]).double()
    own = BatchNorm(shape[1]).double()
    theirs.weight.data = own.weight.data = draw(shape[1], seed=1)
    theirs.bias.data = own.bias.data = draw(shape[1], seed=2)
    return own, theirs


@pytest.mark.parametrize("shape", SHAPES)
def test_real_rows_are_normalised_by_each_other_as_torch_does_it(shape: tuple[int, ...]) -> None:
    own, theirs = pair(shape)
    x = 5 + 2 * draw(*shape)
    x[~REAL] = torch.nan
    with batch_norm.over(REAL):
        found = own(x)
    torch.testing.assert_close(found[REAL], theirs(x[REAL]), rtol=1e-10, atol=1e-10)
    with batch_norm.over(None):  # all are
        torch.testing.assert_close(own(x[REAL]), theirs(x[REAL]), rtol=1e-10, atol=1e-10)


def test_a_single_value_is_its_own_mean() -> None:
    own, _ = pair((1, 3))
    for real in (None, torch.tensor([True])):
        with batch_norm.over(real):
            torch.testing.assert_close(own(draw(1, 3)), own.bias[None])


@pytest.mark.parametrize("shape", SHAPES)
def test_elsewhere_the_statistics_normalise_and_may_come_with_the_weights(shape: tuple[int, ...]) -> None:
    own, theirs = pair(shape)
    mean, var = draw(3, seed=3), draw(3, seed=4).abs()
    theirs.running_mean, theirs.running_var = mean, var
    x = draw(*shape)
    found = torch.func.functional_call(own, {"mean": mean, "var": var}, (x,))
    torch.testing.assert_close(found, theirs.eval()(x), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(own(x), nn.functional.batch_norm(x, mean * 0, var * 0 + 1, own.weight, own.bias))


def test_one_channel_by_hand() -> None:
    own = BatchNorm(1, eps=0.25).double()
    own.weight.data, own.bias.data = torch.tensor([2.0]).double(), torch.tensor([10.0]).double()
    x = torch.tensor([[1.0], [100.0], [4.0]]).double()
    with batch_norm.over(torch.tensor([True, False, True])):
        found = own(x)  # mean 2.5, variance 2.25
    expected = [10 + 2 * (value - 2.5) / 2.5**0.5 for value in (1.0, 4.0)]
    assert found[[0, 2], 0].tolist() == pytest.approx(expected, rel=1e-12)


def network() -> nn.Sequential:
    model = nn.Sequential(nn.Conv2d(2, 3, 2), BatchNorm(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4), BatchNorm(4))
    for k, p in enumerate(model.parameters()):
        p.data = draw(*p.shape, seed=k) / 2
    return model.double()


def loss(model: nn.Module, w: dict[str, Tensor], x: Tensor, real: Tensor) -> Tensor:
    with batch_norm.over(real):
        f = torch.func.functional_call(model, w, (x,))
    return torch.where(real, (f**3).sum(1), 0).sum()


def test_gradients_under_vmap_are_those_of_the_real_rows_alone() -> None:
    model, x = network(), draw(6, 2, 3, 3)
    w = {name: p.detach() for name, p in model.named_parameters()}
    both = {name: torch.stack([p, p + 0.1 * draw(*p.shape, seed=9)]) for name, p in w.items()}
    masks = torch.stack([REAL, ~REAL])
    found = torch.func.vmap(torch.func.grad(lambda w, real: loss(model, w, x, real)))(both, masks)
    for k, real in enumerate(masks):
        own = {name: p[k] for name, p in both.items()}
        rows = x[real]
        expected = torch.func.grad(lambda w, x=rows: loss(model, w, x, torch.ones(len(x), dtype=torch.bool)))(own)
        for name in w:
            torch.testing.assert_close(found[name][k], expected[name], rtol=1e-8, atol=1e-10)


def test_padding_alone_gives_finite_gradients() -> None:
    model, x = network(), draw(6, 2, 3, 3)
    w = {name: p.detach() for name, p in model.named_parameters()}
    found = torch.func.grad(lambda w: loss(model, w, x, torch.zeros(6, dtype=torch.bool)))(w)
    assert all(not part.any() for part in found.values())


def test_statistics_of_sums_are_those_of_all_rows() -> None:
    model, x = network(), draw(11, 2, 3, 3)
    all_ = torch.ones(11, dtype=torch.bool)
    parts = [
        batch_norm.sums(model, lambda part=x[a:b]: model(part), torch.ones(b - a, dtype=torch.bool))
        for a, b in ((0, 4), (4, 11))
    ]
    found = batch_norm.statistics(trees.add(*parts), torch.float64)
    z = model[0](x)
    torch.testing.assert_close(found["1.mean"], z.mean((0, 2, 3)).detach())
    torch.testing.assert_close(found["1.var"], z.var((0, 2, 3), correction=0).detach())
    # of one batch all layers': with them the model gives what it gives in training
    whole = batch_norm.statistics(batch_norm.sums(model, lambda: model(x), all_), torch.float64)
    assert list(whole) == ["1.mean", "1.var", "5.mean", "5.var"]
    with batch_norm.over(all_):
        expected = model(x)
    torch.testing.assert_close(torch.func.functional_call(model, whole, (x,)), expected, rtol=1e-8, atol=1e-8)
    assert not any(part._forward_pre_hooks for part in model.modules())


class Twice(nn.Module):
    """One layer of torch's for two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3, affine=False, momentum=None).double()

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.norm(x) + self.norm(2 * x - 7)
        return found


def test_torchs_layer_is_known_by_its_statistics_and_may_be_used_twice() -> None:
    model, x = Twice(), draw(6, 3)
    x[~REAL] = torch.nan
    with Intercept(batch_norm.REPLACED):
        sums = batch_norm.sums(model, lambda: model(x), REAL)
    model.norm.num_batches_tracked.zero_()
    found, both = batch_norm.statistics(sums, torch.float32), torch.cat([x[REAL], 2 * x[REAL] - 7])
    assert list(found) == ["norm.running_mean", "norm.running_var", "norm.num_batches_tracked"]
    torch.testing.assert_close(found["norm.running_mean"], both.mean(0).float())
    torch.testing.assert_close(found["norm.running_var"], both.var(0, correction=0).float())
    assert found["norm.num_batches_tracked"] == 2
    layer = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.BatchNorm1d(2).eval(), BatchNorm(2))
    assert list(batch_norm.layers(layer)) == ["1", "3"] and batch_norm.counters(layer) == ["1.num_batches_tracked"]
    assert batch_norm.counters(nn.BatchNorm1d(2)) == ["num_batches_tracked"]


def test_torchs_function_is_ours_inside_and_its_own_elsewhere() -> None:
    own, theirs = pair((6, 3))
    x = 5 + 2 * draw(6, 3)
    before = {name: part.clone() for name, part in theirs.state_dict().items()}
    with batch_norm.over(REAL), Intercept(batch_norm.REPLACED):
        assert torch.equal(theirs(x), own(x))
        frozen = theirs.eval()(x)
    theirs.load_state_dict(before)
    assert torch.equal(frozen, theirs(x))
    with Intercept(batch_norm.REPLACED):
        theirs.train()(x)
    assert not torch.equal(theirs.running_mean, before["running_mean"])
