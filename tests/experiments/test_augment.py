"""What happens at random to the rows of batches, in whole runs: on two by two images, which are flattened."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedtangent import cli
from fedtangent.augmentations.images import images, moved
from fedtangent.experiments.experiment import experiment
from fedtangent.experiments.run import run
from fedtangent.experiments.setup import setup
from fedtangent.shard import Dataset
from fedtangent.training.task import Augmentation
from tests import tiny_federation as federation
from tests.experiments import tiny

ON_BATCHES = ["central", "dfedavg", "fedavg", "feddyn", "fednova", "fedopt", "fedpart", "fedprox", "local", "moon",
              "pooled", "scaffold"]  # fmt: skip
MOVED: dict[str, Any] = {"augment": "images", "padding": 1, "degrees": 20.0}


def as_images() -> Dataset:
    data = tiny.data()
    return data._replace(x_train=data.x_train.view(-1, 1, 2, 2), x_test=data.x_test.view(-1, 1, 2, 2))


def settings(method: str, **change: Any) -> dict[str, Any]:
    model = nn.Sequential(nn.Flatten(), *tiny.network())
    rounds = {"rounds": 4} if method == "fedpart" else {}
    return tiny.settings(method, **{"dataset": as_images(), "model": model, **rounds, **change})


def weights(method: str, **change: Any) -> dict[str, Tensor]:
    return run(experiment(**settings(method, **change))).weights


@pytest.mark.few(4)
@pytest.mark.parametrize("method", ON_BATCHES)
def test_every_method_on_batches_trains_on_the_images_moved(method: str) -> None:
    plain, found = weights(method), weights(method, **MOVED)
    assert not torch.allclose(plain["1.weight"], found["1.weight"], rtol=1e-3)
    federation.assert_same(plain, weights(method, augment="images", padding=0, mirror=False))


@pytest.mark.parametrize("method", ["fedavg", "moon", "fedpart", "dfedavg", "pooled"])
def test_engines_agree(method: str) -> None:
    one, many = (weights(method, engine=name, dtype="float64", **MOVED) for name in ("sequential", "vectorized"))
    federation.assert_close(one, many, 1e-9)


def test_a_round_by_hand() -> None:
    found = weights("fedavg", rounds=1, dtype="float64", participation=1.0, batch=4, lr=0.3, **MOVED)
    total = {
        name: torch.zeros(p.shape, dtype=torch.float64) for name, p in settings("fedavg")["model"].named_parameters()
    }
    x, y = as_images().x_train.double(), as_images().y_train
    for node, rows in enumerate(tiny.partition().index):
        model, rng = settings("fedavg")["model"].double(), federation.philox("batches", 1, node, seed=0)
        order = rng.permutation(len(rows))
        wide = min(4, len(rows))
        change = images(padding=1, degrees=20).draw(rng, -(-len(rows) // wide) * wide)
        for start in range(0, len(rows), 4):
            batch, those = rows[order[start : start + 4]], slice(start, min(start + 4, len(rows)))
            own = moved(x[batch], type(change)(*(part[those] for part in change)))
            model.zero_grad()
            nn.functional.cross_entropy(model(own), y[batch]).backward()
            for p in model.parameters():
                p.data -= 0.3 * p.grad
        for name, p in model.named_parameters():
            total[name] += p.detach() * len(rows) / sum(tiny.ROWS)
    federation.assert_close(found, total, 1e-9)


def test_nothing_is_moved_in_measuring() -> None:
    plain, found = (run(experiment(**settings("fedavg", lr=1e-12, rounds=1, **more))) for more in ({}, MOVED))
    assert plain.rounds[0]["loss"] == pytest.approx(found.rounds[0]["loss"], rel=1e-6)


def test_the_manifest_says_so_only_where_there_is_one() -> None:
    told = setup(experiment(**settings("fedavg", **MOVED))).description
    assert told["augment"] == "images"
    assert told["augment_options"] == {"padding": 1, "mirror": True, "degrees": 20.0}
    assert "augment" not in setup(experiment(**settings("fedavg"))).description


def test_one_of_your_own() -> None:
    brighter = Augmentation(lambda rng, rows: torch.from_numpy(rng.normal(size=rows)), lambda x, by: x)
    federation.assert_same(weights("fedavg"), weights("fedavg", augment=brighter))


def noise(**_: Any) -> Any:
    return "noise"


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("ntkfl", MOVED, r"^`augment` must be left out for ntkfl, which trains on no batches; got 'images'. Drop it\.$"),
    ("fedkfac", MOVED, r"^`augment` must be left out for fedkfac, which trains on no batches"),
    ("fedavg", {"augment": "image"}, r"^`augment` must be one of images; got 'image'. Did you mean 'images'\?$"),
    ("fedavg", {"augment": "images", "padding": -1}, r"^`padding` must not be negative; got -1"),
    (
        "fedavg",
        {"augment_options": {"padding": 1}},
        r"^`augment_options` must be left out without augment; got padding",
    ),
    ("fedavg", {"augment": noise}, r"^`augment` must give an Augmentation; got str\. Return one\.$"),
    (
        "fedavg",
        {"augment": "images", "dataset": tiny.data()},
        r"^`augment` must take inputs of shape \(rows, 4\); got ",
    ),
    (
        "fedavg",
        {"augment": Augmentation(lambda rng, rows: torch.zeros(rows), lambda x, by: x[:, :, :1])},
        r"^`augment` must keep the inputs' shape and type, \(\(2, 1, 2, 2\), .*; got \(\(2, 1, 1, 2\), torch",
    ),
]


@pytest.mark.parametrize(("method", "change", "words"), WRONG)
def test_one_clear_sentence(method: str, change: dict[str, Any], words: str) -> None:
    with pytest.raises((ValueError, TypeError), match=words):
        setup(experiment(**settings(method, **change)))


def test_from_the_command_line(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    data = as_images()
    arrays = {name: getattr(data, name).numpy() for name in ("x_train", "y_train", "x_test", "y_test")}
    np.savez(tmp_path / "small.npz", **arrays)
    words = [
        "run",
        "fedavg",
        "--dataset",
        "npz",
        "--data-dir",
        str(tmp_path / "small.npz"),
        "--nodes",
        "2",
        "--rounds",
        "1",
    ]
    assert cli.main([*words, "--augment", "images", "--padding", "1", "--partition", "iid", "--dry-run"]) == 0
    assert cli.main([*words, "--augment", "turned"]) == 2
    assert "`augment` must be one of images; got 'turned'" in capsys.readouterr().err
    assert cli.main(["list"]) == 0
    assert "augmentations" in capsys.readouterr().out
