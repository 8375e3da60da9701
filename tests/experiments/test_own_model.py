"""A model in a file of the user's own: what it is called with, and the sentence for one that takes something else."""

from pathlib import Path

import pytest
import torch

import fedtangent
from fedtangent.errors import SettingError

RIGHT = """from math import prod

from torch import nn

def mine(inputs, outputs, rng, *, width: int = 5):
    return nn.Sequential(nn.Flatten(), nn.Linear(prod(inputs), width), nn.Linear(width, outputs))
"""


def test_it_is_called_with_the_shape_of_a_row_the_outputs_and_a_generator(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(RIGHT, encoding="utf-8")
    found = fedtangent.run("fedavg", model=str(tmp_path / "mine.py"), width=7, nodes=2, rounds=1)
    assert [tuple(part.shape) for part in found.model.parameters()] == [(7, 64), (7,), (10, 7), (10,)]


@pytest.mark.parametrize(
    "more", [{"method": "fedavg"}, {"method": "dfedavg", "first_weights": "distinct", "degree": 2}]
)
def test_what_torch_draws_in_it_is_by_the_seed_and_by_nothing_else(more: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(RIGHT, encoding="utf-8")

    def loss(others: int, seed: int) -> float:
        torch.manual_seed(others)
        before = torch.get_rng_state()
        found = fedtangent.run(**more, model=str(tmp_path / "mine.py"), nodes=3, rounds=1, seed=seed)  # type: ignore[arg-type]
        assert torch.equal(torch.get_rng_state(), before)
        return float(found.rounds[0]["loss"])

    assert loss(1, 0) == loss(2, 0) != loss(1, 3)


def test_a_run_of_it_goes_on(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(RIGHT, encoding="utf-8")
    asked = {"method": "fedavg", "model": str(tmp_path / "mine.py"), "nodes": 2, "out": tmp_path / "a"}
    for rounds, resume in ((1, False), (2, True)):
        torch.manual_seed(rounds)
        assert len(fedtangent.run(**asked, rounds=rounds, resume=resume).rounds) == rounds


@pytest.mark.parametrize("takes", ["", "inputs, outputs", "inputs, outputs, rng, more"])
def test_one_that_takes_something_else(takes: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(RIGHT.replace("inputs, outputs, rng, *, width: int = 5", takes), encoding="utf-8")
    with pytest.raises(
        SettingError, match=r"`model` must take the shape of a row, .*; got .*mine\.py, with .*argument"
    ):
        fedtangent.run("fedavg", model=str(tmp_path / "mine.py"), nodes=2, rounds=1)
