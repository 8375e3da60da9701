"""Batch norm in whole runs: trained by the batch, measured by statistics that the clients sum after a round."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fedtangent
from fedtangent.experiments.experiment import experiment
from fedtangent.experiments.recalibrate import ROWS
from fedtangent.experiments.run import Result, run
from fedtangent.experiments.setup import setup
from fedtangent.shard import Partition
from fedtangent.training import batch_norm
from fedtangent.training.batch_norm import BatchNorm
from tests import tiny_federation as federation
from tests.experiments import tiny

AVERAGING = ["fedavg", "feddyn", "fednova", "fedopt", "fedpart", "fedprox", "moon", "scaffold"]
BUFFERS = ["1.mean", "1.var"]


def network() -> nn.Sequential:
    first, *rest = tiny.network()
    return nn.Sequential(first, BatchNorm(6), *rest)


def found(method: str, out: Path | None = None, resume: bool = False, **change: Any) -> Result:
    rounds = {"rounds": 4} if method == "fedpart" else {}
    settings = tiny.settings(method, **{"model": network(), "dtype": "float64", **rounds, **change})
    return run(experiment(**settings), out, resume=resume)


@pytest.mark.few(3)
@pytest.mark.parametrize("method", AVERAGING)
def test_every_method_that_averages_at_a_server_bears_it_in_both_engines(method: str) -> None:
    """Without a bias before the normalisation, whose gradient is zero, or what rounding makes of that."""
    model = network()
    model[0].bias = None
    one, many = (found(method, engine=name, model=model) for name in ("sequential", "vectorized"))
    assert sorted(one.weights) == sorted([*dict(model.named_parameters()), *BUFFERS])
    federation.assert_close(one.weights, many.weights, 1e-9)
    assert one.rounds[-1]["sent_bytes"] == many.rounds[-1]["sent_bytes"]


def test_a_round_by_hand() -> None:
    result = found("fedavg", rounds=1, participation=1.0, batch=4, lr=0.3)
    x, y = tiny.data().x_train.double(), tiny.data().y_train
    total = {name: torch.zeros_like(p).double() for name, p in network().named_parameters()}
    for node, rows in enumerate(tiny.partition().index):
        model, rng = network().double(), federation.philox("batches", 1, node, seed=0)
        order = rng.permutation(len(rows))
        for start in range(0, len(rows), 4):
            batch = rows[order[start : start + 4]]
            z = model[0](x[batch])
            z = (z - z.mean(0)) / (z.var(0, correction=0) + 1e-5).sqrt() * model[1].weight + model[1].bias
            model.zero_grad()
            nn.functional.cross_entropy(model[3](model[2](z)), y[batch]).backward()
            for p in model.parameters():
                p.data -= 0.3 * p.grad
        for name, p in model.named_parameters():
            total[name] += p.detach() * len(rows) / sum(tiny.ROWS)
    z = x @ total["0.weight"].T + total["0.bias"]
    total |= {"1.mean": z.mean(0), "1.var": z.var(0, correction=0)}
    federation.assert_close(result.weights, total, 1e-9)
    test = tiny.data()
    f = torch.func.functional_call(network().double(), total, (test.x_test.double(),))
    loss = nn.functional.cross_entropy(f, test.y_test)
    assert result.rounds[0]["loss"] == pytest.approx(float(loss), rel=1e-9)
    assert result.rounds[0]["accuracy"] == float((f.argmax(1) == test.y_test).double().mean())


def test_measuring_is_not_billed() -> None:
    plain = nn.Sequential(*tiny.network()[:1], nn.LayerNorm(6), *tiny.network()[1:])
    with_, without = (found("fedavg", model=model).rounds for model in (network(), plain))
    for name in ("sent_bytes", "uplink_bytes", "multiply_adds"):
        assert [entry[name] for entry in with_] == [entry[name] for entry in without]


def test_many_rows_are_passed_in_batches() -> None:
    rows = 2 * ROWS + 5
    x = tiny.data().x_train.repeat(rows // sum(tiny.ROWS) + 1, 1)[:rows]
    data = tiny.data()._replace(x_train=x, y_train=torch.arange(rows) % 3)
    whole = Partition([range(rows)])
    deep = nn.Sequential(*network()[:3], nn.Linear(6, 5).double(), BatchNorm(5), nn.Linear(5, 3).double())
    for p in deep.parameters():
        p.data = torch.linspace(-1, 1, p.numel()).view(p.shape).float() + 0.1
    result = found("fedavg", dataset=data, partition=whole, model=deep, rounds=1, participation=1.0, batch=50)
    w = {name: part for name, part in result.weights.items() if not name.endswith(("mean", "var"))}
    model, parts = deep.double(), []
    for batch in x.double().split(ROWS):
        real = torch.ones(len(batch), dtype=torch.bool)
        with batch_norm.over(real):
            parts.append(torch.func.functional_call(model[:4], {n: p for n, p in w.items() if n[0] < "4"}, (batch,)))
    federation.assert_close(result.weights["4.mean"], torch.cat(parts).mean(0), 1e-9)
    federation.assert_close(result.weights["4.var"], torch.cat(parts).var(0, correction=0), 1e-9)


def test_padding_is_in_no_statistics() -> None:
    """Shards of 2 ROWS + 5, 4 and 3 rows in one chunk: the small ones are padded by more than ROWS rows."""
    rows = 2 * ROWS + 12
    x = 5 + tiny.data().x_train.repeat(rows // sum(tiny.ROWS) + 1, 1)[:rows]
    data = tiny.data()._replace(x_train=x, y_train=torch.arange(rows) % 3)
    uneven = Partition([range(rows - 7), range(rows - 7, rows - 3), range(rows - 3, rows)])
    given = {"dataset": data, "partition": uneven, "rounds": 1, "participation": 1.0, "batch": rows}
    one, many = (found("fedavg", engine=name, **given).weights for name in ("sequential", "vectorized"))
    z = x.double() @ one["0.weight"].T + one["0.bias"]
    federation.assert_close(one["1.mean"], z.mean(0), 1e-9)
    federation.assert_close(one["1.var"], z.var(0, correction=0), 1e-9)
    federation.assert_close(one, many, 1e-9)


def test_a_record_gives_the_model_back_and_goes_on_as_it_was(tmp_path: Path) -> None:
    whole = found("scaffold", tmp_path / "whole", rounds=3)
    found("scaffold", tmp_path / "cut", rounds=3)
    again = found("scaffold", tmp_path / "cut", resume=True, rounds=3)
    federation.assert_same(whole.weights, again.weights)
    model = fedtangent.load(tmp_path / "whole", network().double())
    x = tiny.data().x_test.double()
    assert torch.equal(model(x), whole.model(x))
    layer = model.get_submodule("1")
    assert isinstance(layer, BatchNorm) and torch.equal(layer.var, whole.weights["1.var"])


@pytest.mark.parametrize("method", ["dfedavg", "local", "central", "pooled", "ntkfl", "fedkfac", "ntkdfl"])
def test_methods_that_cannot_bear_it_say_so(method: str) -> None:
    words = rf"^`model` must have no batch norm for {method}, which has no server .*; got it at '1'\. Use GroupNorm"
    with pytest.raises(ValueError, match=words):
        setup(experiment(**tiny.settings(method, model=network())))


def test_the_residual_network_of_the_paper() -> None:
    x = torch.rand(12, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    data = fedtangent.Dataset("pictures", x, torch.arange(12) % 3, x, torch.arange(12) % 3, 3)
    settings: dict[str, Any] = {"dataset": data, "model": "resnet8", "norm": "batch", "partition": "iid", "nodes": 2}
    result = fedtangent.run("fedpart", rounds=11, warm_up=1, rounds_per_group=1, batch=4, lr=0.05, **settings)
    kept: dict[str, Tensor] = {name: part for name, part in result.weights.items() if name.endswith((".mean", ".var"))}
    assert len(kept) == 2 * 9 and all(part.isfinite().all() for part in kept.values())
    assert result.manifest["experiment"]["model_options"] == {"norm": "batch"}
