"""`deterministic`: PyTorch's switches during a run, and one sentence about an operation that cannot obey them."""

import os
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fedtangent
from fedtangent.experiments import deterministic
from fedtangent.experiments.run import run
from tests.experiments.tiny import tiny


class Putting(nn.Module):
    """A linear network plus a constant that is written by `put_`, which has no deterministic form anywhere."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        constant = torch.zeros(10).put_(torch.tensor([2]), torch.tensor([0.7]))
        out: Tensor = self.linear(x.flatten(1)) + constant
        return out


def switches() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic


def test_the_switches_are_set_in_a_run_and_as_before_after_it() -> None:
    seen: list[tuple[bool, bool]] = []

    def on_round(entry: dict[str, Any]) -> None:
        seen.append(switches())

    before = switches()
    assert before == (False, False)
    found = run(tiny(rounds=2, deterministic=True), on_round=on_round)
    assert seen == [(True, True)] * 2
    assert switches() == before
    expected = run(tiny(rounds=2), on_round=on_round)
    assert seen[2:] == [before] * 2
    assert all(torch.equal(w, expected.weights[name]) for name, w in found.weights.items())
    assert found.manifest["experiment"]["deterministic"] is True
    assert "deterministic" not in expected.manifest["experiment"]


def test_a_run_within_a_run_leaves_the_switches_to_the_outer_one() -> None:
    seen: list[tuple[bool, bool]] = []

    def on_round(entry: dict[str, Any]) -> None:
        run(tiny(rounds=1, deterministic=True))
        seen.append(switches())

    run(tiny(rounds=1, deterministic=True), on_round=on_round)
    assert seen == [(True, True)]
    assert switches() == (False, False)


@pytest.mark.parametrize("method", ["fedavg", "dfedavg", "ntkdfl"])
def test_an_operation_without_a_deterministic_form_is_one_sentence(method: str) -> None:
    settings: dict[str, Any] = {
        "method": method,
        "dataset": "digits",
        "model": Putting(),
        "nodes": 6,
        "rounds": 1,
        "engine": "sequential",
    }
    with pytest.raises(ValueError, match=r"^`deterministic` must be left out") as raised:
        fedtangent.run(**settings, deterministic=True)
    assert str(raised.value) == (
        "`deterministic` must be left out for a model with an operation that has no deterministic form on cpu; got "
        "put_. Replace that operation, or drop `deterministic`."
    )
    assert switches() == (False, False)


def test_another_error_stays_what_it_is() -> None:
    with (
        pytest.raises(RuntimeError, match=r"^of another kind$"),
        deterministic.deterministic(tiny(deterministic=True)),
    ):
        raise RuntimeError("of another kind")
    assert switches() == (False, False)


def test_cublas_is_told_before_the_gpu_is_first_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(deterministic.CUBLAS, raising=False)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    deterministic.prepare(torch.device("cpu"))
    assert deterministic.CUBLAS not in os.environ
    deterministic.prepare(torch.device("cuda"))
    assert os.environ[deterministic.CUBLAS] == ":4096:8"
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    deterministic.prepare(torch.device("cuda"))
    monkeypatch.setenv(deterministic.CUBLAS, ":1:1")
    with pytest.raises(ValueError, match=r"^`deterministic` must be set before a process first uses its GPU; got one"):
        deterministic.prepare(torch.device("cuda"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("method", ["fedavg", "fedkfac", "dfedkfac", "ntkdfl"])
def test_two_runs_on_a_gpu_give_the_same_bits(method: str) -> None:
    own = {"guard": False} if method == "fedkfac" else {}
    settings = {"method": method, "model": "lenet", "nodes": 6, "rounds": 2, "device": "cuda", "deterministic": True}
    first, second = (fedtangent.run(**settings, **own) for _ in range(2))
    assert all(torch.equal(w, second.weights[name]) for name, w in first.weights.items())
