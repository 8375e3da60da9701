"""First weights of every node's own: drawn by the model's function, one generator a node."""

from typing import Any

import pytest
import torch

from fedtangent.catalog import load, names
from fedtangent.errors import SettingError
from fedtangent.experiments.run import run
from fedtangent.experiments.setup import setup
from fedtangent.federation import generator
from fedtangent.models.mlp import mlp
from fedtangent.training.task import Task
from tests.experiments.tiny import network, timeless, tiny

OWN = [name for name in names("methods") if load("methods", name)(Task(network())).traits.own_start]


@pytest.mark.parametrize("method", OWN)
def test_every_node_begins_with_a_draw_of_the_model(method: str) -> None:
    built = setup(tiny(method, first_weights="distinct", dtype="float64", seed=3))
    fleet = built.fleet(0, built.wire())
    state = built.method.init(fleet, fleet.each(list(built.data)))
    for node, w in enumerate(state.w_k.values):
        expected = mlp((4,), 3, generator(3, 0, "first weights", node), hidden=(6,))
        found = {name: part.to(torch.float64) for name, part in expected.named_parameters()}
        assert {*w} == {*found}
        assert all(torch.equal(w[name], part) and w[name].dtype == torch.float64 for name, part in found.items())


@pytest.mark.few(3)
@pytest.mark.parametrize("method", OWN)
def test_it_is_another_run_which_both_engines_agree_on(method: str) -> None:
    asked: dict[str, Any] = {"dtype": "float64", "rounds": 1}
    same = run(tiny(method, **asked))
    one, other = (run(tiny(method, first_weights="distinct", engine=e, **asked)) for e in ("sequential", "vectorized"))
    assert one.rounds[0]["loss"] == pytest.approx(other.rounds[0]["loss"], rel=1e-7)
    assert abs(one.rounds[0]["loss"] - same.rounds[0]["loss"]) > 1e-3
    assert one.manifest["experiment"]["first_weights"] == "distinct"
    assert "first_weights" not in same.manifest["experiment"]
    assert timeless(run(tiny(method, first_weights="same", **asked)).rounds) == timeless(same.rounds)


@pytest.mark.parametrize(
    ("method", "change", "told"),
    [
        (
            "fedavg",
            {},
            "`first_weights` must be same for fedavg, all of whose nodes begin alike; got distinct. Drop it.",
        ),
        ("dfedavg", {"model": network()}, "`first_weights` must be same for a module of your own, which comes with"),
        (
            "dfedavg",
            {"first_weights": "other"},
            "`first_weights` must be one of same, distinct; got 'other'. Choose one.",
        ),
    ],
)
def test_what_cannot_be(method: str, change: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingError) as error:
        setup(tiny(method, **{"first_weights": "distinct", **change}))
    assert str(error.value).startswith(told)


def test_the_methods_that_take_them() -> None:
    assert OWN == ["dfedavg", "dfedkfac", "dfedsam", "dpsgd", "epidemic", "local", "ntkdfl", "pooled"]
