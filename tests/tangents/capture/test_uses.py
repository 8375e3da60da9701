"""Uses are looked for once for a task's model, whoever asks first."""

import torch
from torch import Tensor, nn

from fedtangent.multiply_adds import Counting
from fedtangent.tangents.capture.functional import trainable
from fedtangent.tangents.capture.verified_uses import known_uses, uses

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


def test_uses_are_found_once_for_parameters_and_samples_of_a_shape() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    w = trainable(model)
    found = known_uses(model, w, X)
    assert list(found.by_name) == list(uses(model, w, X).by_name) == ["0.", "2."]
    assert known_uses(model, {name: 2 * part for name, part in w.items()}, X[:2]) is found
    last = {name: part for name, part in w.items() if name.startswith("2")}
    assert list(known_uses(model, last, X).by_name) == ["2."]
    double = {name: part.double() for name, part in w.items()}
    assert known_uses(model, double, X.double()) is not found
    assert known_uses(nn.Sequential(*model), w, X) is not found


def test_who_comes_first_pays_no_multiply_adds_for_the_search() -> None:
    model = nn.Linear(4, 2)
    w = trainable(model)

    def answer(x: Tensor) -> Tensor:
        known_uses(model, w, x)
        return x @ w["weight"].mT

    def counted() -> int:
        with Counting() as counting:
            torch.func.vmap(answer)(X[:, None])
        return counting.total

    assert [counted(), counted()] == [5 * 4 * 2] * 2
