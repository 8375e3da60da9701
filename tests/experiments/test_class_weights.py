"""Class weights: one objective for all clients, which on all rows together is torch's."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fedtangent
from fedtangent import cli
from fedtangent.experiments.setup import setup
from fedtangent.shard import Partition
from tests.experiments.tiny import data, network, partition, saved, settings, tiny

GIVEN = (10.0, 1.0, 0.1)
SKEWED = Partition([np.array([0, 3, 6, 1]), np.array([9, 12, 15, 18, 2]), np.array([4, 0])])  # labels are i mod 3
Y = np.concatenate(SKEWED.index) % 3  # 8 times 0, 2 times 1, once 2


def objective(weights: Tensor, index: np.ndarray) -> dict[str, Tensor]:
    """The gradient of torch's weighted loss on these rows together, in float64."""
    model = network().double()
    x, y = data().x_train[index].double(), data().y_train[index]
    found = torch.autograd.grad(F.cross_entropy(model(x), y, weight=weights.double()), list(model.parameters()))
    return {name: part for (name, _), part in zip(model.named_parameters(), found, strict=True)}


def moved(method: str, lr: float, **change: Any) -> dict[str, Tensor]:
    """(w_0 - w) / lr after one round."""
    asked = settings(method, model=network(), partition=SKEWED, rounds=1, dtype="float64", **{"lr": lr, **change})
    found = fedtangent.run(**asked).weights
    return {name: (p.detach().double() - found[name]) / lr for name, p in network().named_parameters()}


def test_balanced_weights_are_scikit_learns() -> None:
    """n / (classes count) over the clients' rows alone, each as often as it is held."""
    found = setup(tiny("fedavg", partition=SKEWED, class_weights="balanced"))
    assert found.class_weights == pytest.approx([11 / (3 * 8), 11 / (3 * 2), 11 / 3])
    assert np.mean([found.class_weights[label] for label in Y]) == pytest.approx(1)  # type: ignore[index]


def test_a_class_that_nobody_has_weighs_one() -> None:
    only = Partition([np.array([0, 3, 1]), np.array([4, 7])])
    assert setup(tiny("fedavg", partition=only, class_weights="balanced")).class_weights == pytest.approx(
        [5 / (2 * 2), 5 / (2 * 3), 1]
    )


def test_weights_are_one_on_average_over_all_rows() -> None:
    found = setup(tiny("fedavg", partition=SKEWED, class_weights=GIVEN)).class_weights
    assert found == pytest.approx(np.array(GIVEN) / np.mean([GIVEN[label] for label in Y]))


@pytest.mark.parametrize("weights", [GIVEN, "balanced", list(GIVEN), np.array(GIVEN), torch.tensor(GIVEN)])
@pytest.mark.parametrize(
    ("method", "change"),
    [
        ("central", {"batch": 99, "epochs": 1}),
        ("fedavg", {"batch": 99, "participation": 1.0}),
        (
            "ntkfl",
            {"clock": "descent", "kernel": "full", "times": (1,), "participation": 1.0, "selection": "linearised"},
        ),
    ],
)
def test_one_step_on_all_rows_is_one_on_torchs_weighted_loss(method: str, change: dict[str, Any], weights: Any) -> None:
    """However the rows are divided among the clients: their means, by rows, are one objective."""
    asked = torch.tensor([11 / 24, 11 / 6, 11 / 3]) if isinstance(weights, str) else torch.tensor(GIVEN)
    expected = objective(asked, np.concatenate(SKEWED.index))
    found = moved(method, 1e-3, class_weights=weights, **change)
    for name, part in expected.items():
        torch.testing.assert_close(found[name], part, rtol=1e-8, atol=1e-10)


@pytest.mark.few(3)
@pytest.mark.parametrize("method", ["fedkfac", "dfedkfac", "ntkdfl", "sumntk", "moon", "dfedavg"])
def test_every_kind_of_method_trains_by_them(method: str) -> None:
    kw: dict[str, Any] = {"degree": 2} if method in ("dfedkfac", "ntkdfl", "dfedavg") else {}
    kw |= {"columns": 1} if method == "sumntk" else {}
    base = settings(method, model=network(), rounds=1, partition=partition(), **kw)
    plain, equal, skewed = (
        fedtangent.run(**base, class_weights=weights).weights for weights in (None, (3.0, 3.0, 3.0), (9.0, 1.0, 1.0))
    )
    for name, part in plain.items():
        torch.testing.assert_close(equal[name], part, rtol=1e-4, atol=1e-5)
    assert any(not torch.allclose(skewed[name], part, rtol=1e-3) for name, part in plain.items())


def test_engines_agree_and_the_test_loss_is_not_weighted() -> None:
    one, other = (
        fedtangent.run(**settings("fedavg", class_weights=GIVEN, engine=engine))
        for engine in ("sequential", "vectorized")
    )
    for name, part in one.weights.items():
        torch.testing.assert_close(other.weights[name], part)
    model, found = one.model, data()
    assert one.rounds[-1]["loss"] == pytest.approx(
        float(F.cross_entropy(model(found.x_test), found.y_test).detach()), rel=1e-5
    )


@pytest.mark.parametrize("weights", [(1.0, 2.0), (1.0, -1.0, 1.0), (1.0, float("nan"), 1.0), "even", {0: 1.0}, 2.0])
def test_weights_that_cannot_be(weights: Any) -> None:
    message = (
        r"^`class_weights` must be 'balanced' or 3 numbers, one a class and none negative; got .*\. Give such weig"
    )
    with pytest.raises(ValueError, match=message):
        setup(tiny("fedavg", class_weights=weights))


def test_weights_of_classes_that_nobody_has() -> None:
    only = Partition([np.array([0, 3]), np.array([6])])
    with pytest.raises(ValueError, match=r"^`class_weights` must be 'balanced' or 3 numbers"):
        setup(tiny("fedavg", partition=only, class_weights=(0.0, 1.0, 1.0)))


def test_targets_have_no_classes() -> None:
    with pytest.raises(
        ValueError, match=r"^`class_weights` must be left out in a regression; got balanced\. Drop it\.$"
    ):
        setup(tiny("fedavg", dataset=data(0), class_weights="balanced"))


def test_torchs_own_weights_work_row_by_row() -> None:
    """reduction='none' is the mean of w[y] loss: the same direction, of another length."""
    fn = nn.CrossEntropyLoss(weight=torch.tensor(GIVEN, dtype=torch.float64), reduction="none")
    found = moved("fedavg", 1e-3, batch=99, participation=1.0, loss=fn)
    mean = float(np.mean([GIVEN[label] for label in Y]))
    for name, part in objective(torch.tensor(GIVEN), np.concatenate(SKEWED.index)).items():
        torch.testing.assert_close(found[name], part * mean, rtol=1e-8, atol=1e-10)


def test_the_record_tells_them_and_others_are_another_experiment(tmp_path: Any) -> None:
    words = ["run", "fedavg", "--dataset", "npz", "--data-dir", saved(tmp_path / "mine.npz"), "--rounds", "1"]
    words += ["--partition", "iid", "--nodes", "3", "--hidden", "4", "--out", str(tmp_path / "out")]
    assert cli.main([*words, "--class-weights", "10,1,0.1"]) == 0
    told = json.loads((tmp_path / "out" / "manifest.json").read_text())["experiment"]
    assert told["class_weights"] == [10.0, 1.0, 0.1]
    assert told["weight_by_class"] == pytest.approx([10 / 3.7, 1 / 3.7, 0.1 / 3.7])
    assert cli.main([*words, "--class-weights", "10,1,0.1", "--resume"]) == 0
    assert cli.main([*words, "--class-weights", "balanced", "--resume"]) == 2
    assert "class_weights" not in setup(tiny("fedavg")).description
    array = setup(tiny("fedavg", class_weights=np.array(GIVEN))).description
    assert array["class_weights"] == list(GIVEN)
