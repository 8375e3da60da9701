"""Inputs that the clients mix by a matrix of their own before anything else."""

from typing import Any

import numpy as np
import pytest
import torch

from fedtangent import cli
from fedtangent.experiments.experiment import experiment
from fedtangent.experiments.record import manifest
from fedtangent.experiments.run import run
from fedtangent.experiments.setup import Setup, setup
from tests import tiny_federation as federation
from tests.experiments import tiny


def built(**change: Any) -> Setup:
    return setup(experiment(**tiny.settings("ntkfl", **{"seed": 5, **change})))


def matrix(size: int) -> torch.Tensor:
    return torch.from_numpy(federation.philox("project", 0, seed=5).standard_normal((4, size))) / np.sqrt(size)


def test_rows_and_test_inputs_are_mixed_by_one_matrix_that_hangs_on_the_seed() -> None:
    plain, found = built(), built(project=3)
    pairs = [(part.x, own.x) for part, own in zip(found.data, plain.data, strict=True)] + [(found.x_test, plain.x_test)]
    for mixed, x in pairs:
        torch.testing.assert_close(mixed, x @ matrix(3).float(), rtol=1e-5, atol=1e-6)


def test_the_model_is_built_on_the_mixtures_and_the_manifest_says_so() -> None:
    found = built(project=3)
    assert next(iter(found.task.w_0.values())).shape == (6, 3)
    assert found.description["project"] == 3
    assert manifest(found)["inputs"] == [3]
    assert manifest(found)["exposure"] == "raw-equivalent"


def test_nothing_is_mixed_unless_asked_for() -> None:
    found = built()
    assert torch.equal(found.x_test, tiny.data().x_test)
    assert found.description["project"] is None


def test_inputs_that_a_partition_shifts_are_mixed_too() -> None:
    shifted = built(partition="feature_shift", nodes=3)
    found = built(partition="feature_shift", nodes=3, project=3)
    for part, own in zip(found.data, shifted.data, strict=True):
        torch.testing.assert_close(part.x, own.x @ matrix(3).float(), rtol=1e-5, atol=1e-6)


def test_a_run_is_that_on_inputs_mixed_by_hand() -> None:
    data = tiny.data()
    train, test = ((x.double() @ matrix(3)).float() for x in (data.x_train, data.x_test))
    mixed = data._replace(x_train=train, x_test=test)
    found, by_hand = (run(built(**change)) for change in ({"project": 3}, {"dataset": mixed}))
    federation.assert_close(found.weights, by_hand.weights, 1e-4)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (0, r"^`project` must be at least 1; got 0. Give such a whole number\.$"),
        (5, r"^`project` must be between 1 and 4, the number of inputs; got 5. Choose fewer\.$"),
    ],
)
def test_a_wrong_number_of_mixtures_is_an_error(size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        built(project=size)


def test_a_model_of_ones_own_must_take_the_mixtures() -> None:
    with pytest.raises(ValueError, match=r"^`model` must take inputs of shape \(rows, 3\); got .*Fit its first layer"):
        built(project=3, model=tiny.network())


def test_the_command_line_knows_what_cp_ntk_fl_adds(capsys: pytest.CaptureFixture[str]) -> None:
    words = (
        "run ntkfl --project 8 --subsample .5 --channel topk,quantize --share .4 --levels 9 --messages factors "
        "--shuffle --exchange factors --participation 1"
    )
    assert cli.main([*words.split(), "--times", "2,9", "--nodes", "3", "--rounds", "1"]) == 0
    assert "Exposure raw-equivalent" in capsys.readouterr().out
